"""Whether reading only what crops need costs accuracy: ``python benchmarks/accuracy.py --data FOLDER``.

Trains the same short experiment with several seeds in two ways, in turn, and scores the test split: with clf's crops
out of the file, and with the reference's: Pillow decodes the whole image, torchvision crops and resizes it. There, the
list of transforms begins with ToPILImage, which leaves nothing to read less of. Both are compared image by image over
all seeds, as ``clf compare`` does; the sentence says whether the difference is more than chance.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import measuring
import yaml

from clf.comparison import Rows, Side, check_same_images, compare, read_rows

WAYS = ("clf", "reference")
V2 = "torchvision.transforms.v2"


def config(way: str, *, flags: argparse.Namespace) -> str:
    """The experiment as YAML."""
    crop = [
        {"class_path": f"{V2}.RandomResizedCrop", "init_args": {"size": flags.size, "scale": [flags.scale, 1.0]}},
        {"class_path": f"{V2}.RandomHorizontalFlip"},
    ]
    before = [{"class_path": f"{V2}.ToPILImage"}] if way == "reference" else []
    weights = {"weights": str(flags.weights.resolve())} if flags.weights else {}
    return yaml.safe_dump(
        {
            "config": "resnet18.yaml",
            "model": {"arch": flags.arch, "pretrained": False, "image_size": flags.size, "warmup_epochs": 1, **weights},
            "data": {"root": str(flags.data.resolve()), "batch_size": flags.batch_size, "augment": [*before, *crop]},
            "trainer": "trainer/cpu.yaml",
            "trainer.max_epochs": flags.epochs,
        }
    )


def scored(way: str, seed: int, folder: Path, *, flags: argparse.Namespace) -> Rows:
    """Train and test once."""
    name = f"{way}{seed}"
    (folder / f"{way}.yaml").write_text(config(way, flags=flags), encoding="utf-8")
    seeds = ("--seed_everything", str(seed), "--name", name)
    measuring.run(measuring.clf("fit", "--config", f"{way}.yaml", *seeds), cwd=folder)
    measuring.run(measuring.clf("test", "--run", f"runs/{name}/001"), cwd=folder)
    rows = read_rows(folder / "runs" / name / "001" / "predictions" / "test.csv", split="test")
    print(f"  {way}, seed {seed}: {rows.correct} of {len(rows.right)}")
    return rows


def main() -> None:
    """Train all, compare, and record."""
    parser = measuring.arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, help="a dataset with train, valid and test; without it nothing is measured"
    )
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--weights", type=Path, help="starting weights, a file; without it from scratch")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--scale", type=float, default=0.35, help="least share of an image that a crop has")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    flags = measuring.parse(parser)
    if flags.data is None:
        print("accuracy: left out, for no --data FOLDER was given")
        return
    measuring.fix_threads(flags.threads)
    found: dict[str, list[Rows]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as folder:
        for seed in range(flags.seeds):
            for way in WAYS if seed % 2 == 0 else WAYS[::-1]:
                found[way].append(scored(way, seed, Path(folder), flags=flags))
    check_same_images({f"{way} {seed}": rows for way in WAYS for seed, rows in enumerate(found[way])})
    result = compare(Side("reference decoding", found["reference"]), Side("clf", found["clf"]))
    reference, ours = (100 * correct / result.n for correct in result.correct)
    measuring.record(
        flags.record,
        "accuracy",
        ours,
        unit="%",
        n=flags.seeds,
        peers={"reference": reference},
        threads=flags.threads,
        sentence=result.sentence,
        images=result.n,
        interval=result.interval,
        p=result.p,
        each={way: [rows.correct for rows in found[way]] for way in WAYS},
    )
    print(result.sentence)


if __name__ == "__main__":
    main()
