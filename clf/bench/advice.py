"""What measurements speak for: pure functions from numbers to a bottleneck and the keys to change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clf.bench.measuring import Advice, Gain, Series, compare, digits, milliseconds

ONLY_ON_GPU: Final = ("trainer.precision", "16-mixed")
"""What is never advised where there is no GPU."""

_EQUAL = 0.1  # Where repeats differ by more, that no difference was seen does not mean that there is none.


@dataclass(frozen=True)
class Alternative:
    """A configuration that differs in one key.

    Args:
        key: Which.
        value: What it would be.
        series: What was measured with it.
    """

    key: str
    value: Any
    series: Series

    @property
    def name(self) -> str:
        """Say it as in YAML."""
        return f"{self.key}: {str(self.value).lower() if isinstance(self.value, bool) else self.value}"


def best_workers(loaders: Mapping[int, Series]) -> int:
    """Choose a number of workers: the fewest that are not clearly slower than the fastest.

    None at all is never chosen where there can be some: the network would wait while each batch is made, which the
    loader by itself does not show.

    Args:
        loaders: What the loader delivered, by its number of workers.
    """
    beside = {workers: series for workers, series in loaders.items() if workers} or loaders
    fastest = max(beside, key=lambda workers: beside[workers].rate)
    return min(
        workers
        for workers, series in beside.items()
        if workers == fastest or not compare(series, beside[fastest]).faster
    )


def advise_data(
    loaders: Mapping[int, Series], *, configured: int, cached: Mapping[str, Series] | None = None
) -> list[Advice]:
    """Say what makes the loader faster.

    Args:
        loaders: What it delivered, by its number of workers.
        configured: The number of workers in use; one of them.
        cached: What it delivered with that number and a warm cache, by ``data.cache``, if that was measured.
    """
    found = []
    now, best = loaders[configured], best_workers(loaders)
    gain = compare(now, loaders[best])
    if gain.faster:
        found.append(_told("data.num_workers", best, now=now, then=loaders[best], gain=gain))
    elif best < configured and gain.spread < _EQUAL and not compare(loaders[best], now).faster:
        text = f"data.num_workers: {best} delivers as much as {configured}, with fewer processes and less memory"
        found.append(Advice("data.num_workers", best, text, 1.0))
    for mode, series in (cached or {}).items():
        if (gain := compare(now, series)).faster:
            found.append(_told("data.cache", mode, now=now, then=series, gain=gain))
    return found


def _told(key: str, value: Any, *, now: Series, then: Series, gain: Gain) -> Advice:
    rates = f"the loader delivers {digits(then.rate)} images/s instead of {digits(now.rate)} ({gain})"
    return Advice(key, value, f"set {key}: {value}; {rates}", gain.ratio)


def name_data_bottleneck(stages: Mapping[str, Series], *, disk: float, cached: bool) -> str:
    """Say what of a sample takes longest.

    Args:
        stages: ``read``, ``decode``, ``augment`` and ``sample`` of a file, each in one process.
        disk: Share of a sample that waiting for the disk has where nothing is in memory.
        cached: Whether training takes decoded images out of a cache instead.
    """
    sample = stages["sample"].median
    if cached:
        augment = milliseconds(stages["augment"].median)
        return f"the augmentation: at most {augment} ms an image in one process; data.cache has the rest done already"
    decoding = max(0.0, sample - stages["augment"].median)
    if disk > 0.5:
        return f"the disk: {disk:.0%} of a sample that is not in memory yet is waiting for its file"
    part = "reading and decoding" if decoding > sample / 2 else "the augmentation"
    share = decoding / sample if decoding > sample / 2 else 1 - decoding / sample
    return f"{part}: {share:.0%} of the {milliseconds(sample)} ms that a sample takes in one process"


def advise_step(
    network: Series, loader: Series, *, alternatives: Sequence[Alternative], loading: Sequence[Advice], on_cpu: bool
) -> tuple[str, list[Advice]]:
    """Say whether the network or the loader limits training, and what to change there.

    Args:
        network: The training step as configured.
        loader: What the loader delivers by itself, as configured.
        alternatives: What else the step was measured with.
        loading: What `advise_data` says of the loader.
        on_cpu: Whether training runs without a GPU.
    Returns:
        The bottleneck, and changes; the gain is that of the slower of the two.
    """
    rates = digits(network.rate), digits(loader.rate)
    waiting = compare(loader, network)  # how much faster the network is than the loader
    if waiting.faster:
        sentence = f"the loader: {rates[1]} images/s, the network could take {rates[0]}"
        return sentence, [_limited(each, most=waiting.ratio, by="the network") for each in loading]
    room = loader.rate / network.rate
    advice = [
        _limited(_switched(network, each), most=room, by="the loader")
        for each in alternatives
        if compare(network, each.series).faster and not (on_cpu and (each.key, each.value) == ONLY_ON_GPU)
    ]
    said = f"the network: {rates[0]} images/s, the loader could give {rates[1]}"
    if not waiting.clear:
        said = f"neither: the network takes {rates[0]} images/s, the loader gives {rates[1]}"
    return said, sorted(advice, key=lambda each: -each.gain)


def _switched(network: Series, to: Alternative) -> Advice:
    gain = compare(network, to.series)
    rates = f"the network takes {digits(to.series.rate)} images/s instead of {digits(network.rate)} ({gain})"
    return Advice(to.key, to.value, f"set {to.name}; {rates}", gain.ratio)


def _limited(advice: Advice, *, most: float, by: str) -> Advice:
    """Promise no more than the other half of training allows."""
    if advice.gain <= most:
        return advice
    if most <= 1:
        return Advice(advice.key, advice.value, f"{advice.text}, but {by} allows no more than now", 1.0)
    return Advice(advice.key, advice.value, f"{advice.text}, of which {by} allows {most:.2f} times", most)


def advise_inference(
    forms: Mapping[tuple[str, int], Series], *, prepare: Series | None, cores: int, channels_last: bool | None
) -> tuple[str, list[Advice]]:
    """Say what limits ``clf predict`` and ``clf serve``, and what to change.

    Args:
        forms: What was measured, by form (``torch``, ``torch, channels last``, ``ONNX Runtime``, ``ONNX Runtime, 1
            thread``) and batch size.
        prepare: Reading and preprocessing in one process; None without images.
        cores: How many decode beside.
        channels_last: What ``model.channels_last`` says; None without torch.
    """
    largest = max(size for _, size in forms)
    used = "ONNX Runtime" if channels_last is None else "torch, channels last" if channels_last else "torch"
    now = forms[used, largest]
    sentence = f"the network: {milliseconds(now.median)} ms an image at batch {largest} ({used})"
    if prepare is not None:
        alone = milliseconds(prepare.median)
        if prepare.median / cores > now.median:
            sentence = f"reading and preprocessing: {alone} ms an image in one process, {sentence}"
        else:
            sentence += f"; reading and preprocessing take {alone} ms in one process, of {cores}"
    advice = []
    other = "torch" if used == "torch, channels last" else "torch, channels last"
    if channels_last is not None and (gain := compare(now, forms[other, largest])).faster:
        key = Alternative("model.channels_last", not channels_last, forms[other, largest])
        advice.append(
            Advice(key.key, key.value, f"set {key.name}: the network is {gain} as fast at batch {largest}", gain.ratio)
        )
    exported = forms.get(("ONNX Runtime", largest))
    if channels_last is not None and exported is not None and (gain := compare(now, exported)).faster:
        text = (
            f"predict with the export (clf predict --ckpt_path …/model.onnx): it is {gain} as fast at batch {largest}"
        )
        advice.append(Advice("ckpt_path", "model.onnx", text, gain.ratio))
    return sentence, [*advice, *_advise_batches(forms, used), *_advise_serving(forms, cores=cores)]


def _advise_batches(forms: Mapping[tuple[str, int], Series], used: str) -> list[Advice]:
    sizes = sorted(size for form, size in forms if form == used)
    best = max(sizes, key=lambda size: forms[used, size].rate)
    gain = compare(forms[used, sizes[-1]], forms[used, best])
    if not gain.faster:
        return []
    text = f"set data.batch_size: {best}; an image is {gain} as fast as at batch {sizes[-1]} ({used})"
    return [Advice("data.batch_size", best, text, gain.ratio)]


def _advise_serving(forms: Mapping[tuple[str, int], Series], *, cores: int) -> list[Advice]:
    one, eight, single = (
        forms.get(each) for each in (("ONNX Runtime", 1), ("ONNX Runtime", 8), ("ONNX Runtime, 1 thread", 1))
    )
    found = []
    batching = None if one is None or eight is None else compare(one, eight)
    if batching is not None and not batching.faster and batching.spread < _EQUAL:
        text = (
            "clf serve --batch_size 1: at batch 8 an image is no faster than alone, so waiting for others gains nothing"
        )
        found.append(Advice("clf serve --batch_size", 1, text, 1.0))
    if one is not None and single is not None and cores > 1:
        alone = compare(one, single)
        gain = cores * alone.ratio
        if gain - 1 > max(cores * alone.spread, 0.1):
            text = (
                f"clf serve --workers {cores} --threads 1: under load up to {gain:.2f} times the answers, since "
                f"one thread takes {milliseconds(single.median)} ms where {cores} take {milliseconds(one.median)}"
            )
            found.append(Advice("clf serve --workers", cores, text, gain))
    return found


def advise_startup(phases: Mapping[str, float], *, workers: int, compiled: bool) -> tuple[str, list[Advice]]:
    """Say what a start waits for.

    Args:
        phases: Seconds by phase, median over processes.
        workers: How many processes load.
        compiled: Whether the network is compiled.
    """
    longest, total = max(phases, key=lambda name: phases[name]), sum(phases.values())
    sentence = f"{longest}: {phases[longest]:.2f} of {total:.2f} s"
    gain = total / (total - phases[longest])
    advice = []
    if longest == "first step" and compiled:
        text = f"model.compile: false starts up to {phases[longest]:.1f} s sooner; ask clf bench step --compile, too"
        advice.append(Advice("model.compile", False, text, gain))
    if longest == "first batch" and workers > 1:
        seconds = f"{phases[longest]:.1f} s"
        text = f"data.num_workers: 1 instead of {workers} starts up to {seconds} sooner; ask clf bench data, too"
        advice.append(Advice("data.num_workers", 1, text, gain))
    return sentence, advice
