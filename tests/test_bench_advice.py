"""What given measurements are made to say: no clock runs here."""

from collections.abc import Iterator, Sequence

import pytest

from clf.bench.advice import (
    Alternative,
    advise_data,
    advise_inference,
    advise_startup,
    advise_step,
    best_workers,
    name_data_bottleneck,
)
from clf.bench.data import worker_counts
from clf.bench.measuring import Advice, Report, Series, alternate, compare, spread, times_within
from clf.bench.startup import by_library


def series(rate: float, *, noise: float = 0.01) -> Series:
    """Five repeats around so many images per second."""
    offsets = (0.0, 1.0, -1.0, 2.0, -2.0)
    return Series("", tuple(64 / rate * (1 + noise * each) for each in offsets), (64,) * 5)


def steady(rate: float) -> Series:
    """Five repeats that are all the same."""
    return series(rate, noise=0.0)


def keys(advice: Sequence[Advice]) -> list[str]:
    return [each.key for each in advice]


# Numbers


def test_a_rate_is_the_inverse_of_the_median_time_of_an_image() -> None:
    found = Series("x", (1.0, 4.0, 2.0), (10, 10, 10))
    assert (found.median, found.rate) == (0.2, 5.0)
    said = found.to_dict()
    assert (said["n"], said["images"], said["seconds"], said["images_per_s"]) == (3, 30, 7.0, 5.0)
    assert said["seconds_per_repeat"] == {"median": 2.0, "spread": 1.5}


def test_repeats_of_different_length_count_by_their_images() -> None:
    assert Series("x", (1.0, 3.0), (10, 30)).per_image == [0.1, 0.1]


@pytest.mark.parametrize(("values", "expected"), [([3.0], 0.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 2.0), ([2.0, 2.0], 0.0)])
def test_the_spread_lies_between_the_quarters(values: list[float], expected: float) -> None:
    assert spread(values) == expected


def test_a_difference_within_the_spread_is_none() -> None:
    wild = Series("", (1.0, 2.0, 1.0, 2.0, 1.0), (64,) * 5)
    calm = Series("", (1.1,) * 5, (64,) * 5)
    assert str(compare(wild, calm)) == "no difference"
    assert str(compare(steady(100), steady(101))) == "no difference"
    assert str(compare(steady(100), steady(150))) == "1.50 times"
    assert not compare(Series("", (1.0,), (1,)), Series("", (0.1,), (1,))).clear  # one repeat has no spread


def test_what_slows_both_down_alike_does_not_hide_a_difference() -> None:
    busy = (1.0, 5.0, 1.0, 4.0, 2.0)
    before, after = Series("", busy, (1,) * 5), Series("", tuple(each / 2 for each in busy), (1,) * 5)
    assert compare(before, after).faster


def test_things_are_measured_in_turn_after_each_was_done_once() -> None:
    done: list[str] = []
    found = alternate({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, images=3, times=2, repeats=2)
    assert "".join(done) == "ab" + "aabb" + "bbaa"
    assert {name: (len(each.seconds), each.images) for name, each in found.items()} == {
        "a": (2, (3, 3)),
        "b": (2, (3, 3)),
    }


def test_a_slow_action_is_done_once_a_repeat_and_a_fast_one_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(step: float) -> Iterator[float]:
        yield from (step * number for number in range(100))

    for seconds, expected in ((10.0, 1), (0.01, 60)):
        ticks = clock(seconds)
        monkeypatch.setattr("clf.bench.measuring.perf_counter", lambda ticks=ticks: next(ticks))
        assert times_within(lambda: None, seconds=3.0) == expected


# The loader


def test_the_fewest_workers_that_are_not_slower_are_chosen() -> None:
    assert best_workers({0: steady(100), 1: steady(200), 2: steady(400), 4: steady(401), 8: steady(390)}) == 2
    assert best_workers({0: steady(100)}) == 0
    assert best_workers({0: steady(400), 1: steady(390), 2: steady(399)}) == 2  # none at all holds the network up


def test_more_workers_are_advised_where_they_deliver_more() -> None:
    [advice] = advise_data({0: steady(100), 1: steady(200), 4: steady(600)}, configured=1)
    assert (advice.key, advice.value) == ("data.num_workers", 4)
    assert advice.gain == pytest.approx(3)
    assert "600 images/s instead of 200" in advice.text


def test_workers_that_deliver_no_more_are_said_to_be_too_many() -> None:
    [advice] = advise_data({0: steady(100), 1: steady(600), 4: steady(605)}, configured=4)
    assert (advice.key, advice.value, advice.gain) == ("data.num_workers", 1, 1.0)
    noisy = Series("", (0.1, 0.2, 0.1, 0.15, 0.05), (64,) * 5)
    assert advise_data({1: noisy, 4: steady(605)}, configured=4) == []  # nothing was shown to be equal


def test_noise_advises_nothing() -> None:
    loaders = {2: series(200, noise=0.3), 4: Series("", (0.31, 0.2, 0.5, 0.3, 0.33), (64,) * 5)}
    assert advise_data(loaders, configured=2) == []


def test_a_cache_is_advised_only_where_it_was_measured_to_help() -> None:
    loaders = {2: steady(200)}
    assert keys(advise_data(loaders, configured=2, cached={"ram": steady(500)})) == ["data.cache"]
    assert advise_data(loaders, configured=2, cached={"ram": steady(201)}) == []
    assert advise_data(loaders, configured=2, cached=None) == []


@pytest.mark.parametrize(
    ("augment", "disk", "expected"),
    [
        (1000, 0.1, "reading and decoding: 80% of the 5.00 ms"),
        (250, 0.1, "the augmentation: 80% of the 5.00 ms"),
        (250, 0.9, "the disk: 90%"),
    ],
)
def test_the_larger_part_of_a_sample_is_named(augment: float, disk: float, expected: str) -> None:
    stages = {"sample": steady(200), "augment": steady(augment)}
    assert name_data_bottleneck(stages, disk=disk, cached=False).startswith(expected)
    assert name_data_bottleneck(stages, disk=disk, cached=True).startswith("the augmentation: at most ")


@pytest.mark.parametrize(
    ("cores", "configured", "expected"),
    [(1, 0, [0, 1]), (2, 2, [0, 1, 2]), (6, 3, [0, 1, 2, 3, 4, 6]), (16, 8, [0, 1, 2, 4, 8, 16])],
)
def test_workers_are_tried_up_to_the_cores(cores: int, configured: int, expected: list[int]) -> None:
    assert worker_counts(cores, configured=configured) == expected


# The step

FASTER = Alternative("model.channels_last", True, steady(90))
HALF = Alternative("trainer.precision", "16-mixed", steady(80))


def test_a_loader_that_is_slower_than_the_network_is_the_bottleneck() -> None:
    loading = advise_data({1: steady(20), 4: steady(80)}, configured=1)
    sentence, advice = advise_step(steady(45), steady(20), alternatives=[FASTER], loading=loading, on_cpu=False)
    assert sentence == "the loader: 20.0 images/s, the network could take 45.0"
    assert keys(advice) == ["data.num_workers"]
    assert advice[0].gain == pytest.approx(45 / 20)  # not 4: then the network limits
    assert "of which the network allows 2.25 times" in advice[0].text


def test_a_network_that_is_slower_than_the_loader_is_the_bottleneck() -> None:
    sentence, advice = advise_step(steady(45), steady(900), alternatives=[HALF, FASTER], loading=[], on_cpu=False)
    assert sentence == "the network: 45.0 images/s, the loader could give 900"
    assert [(each.key, each.value) for each in advice] == [
        ("model.channels_last", True),
        ("trainer.precision", "16-mixed"),
    ]
    assert (
        advice[0].text == "set model.channels_last: true; the network takes 90.0 images/s instead of 45.0 (2.00 times)"
    )


def test_no_more_is_promised_than_the_loader_can_deliver() -> None:
    _, [advice] = advise_step(steady(45), steady(60), alternatives=[FASTER], loading=[], on_cpu=False)
    assert advice.gain == pytest.approx(60 / 45)
    assert "of which the loader allows 1.33 times" in advice.text


def test_what_needs_a_gpu_is_never_advised_without_one() -> None:
    _, advice = advise_step(steady(45), steady(900), alternatives=[HALF, FASTER], loading=[], on_cpu=True)
    assert keys(advice) == ["model.channels_last"]


def test_an_alternative_that_is_slower_or_no_different_is_not_advised() -> None:
    others = [Alternative("model.channels_last", False, steady(rate)) for rate in (20, 45.5)]
    others.append(Alternative("model.compile", True, series(50, noise=0.3)))
    assert advise_step(steady(45), steady(900), alternatives=others, loading=[], on_cpu=True)[1] == []


def test_a_loader_as_fast_as_the_network_is_no_bottleneck() -> None:
    assert advise_step(steady(45), steady(45), alternatives=[], loading=[], on_cpu=True)[0].startswith("neither: ")


# Predictions and start


def forms(torch: float, last: float, onnx: float | None = None) -> dict[tuple[str, int], Series]:
    rates = {"torch": torch, "torch, channels last": last, **({} if onnx is None else {"ONNX Runtime": onnx})}
    return {(name, size): steady(rate) for name, rate in rates.items() for size in (1, 8, 64)}


def test_an_export_that_is_faster_is_advised() -> None:
    sentence, advice = advise_inference(forms(100, 100, 180), prepare=steady(1000), cores=2, channels_last=True)
    assert sentence.startswith("the network: 10.0 ms an image at batch 64 (torch, channels last)")
    assert {each.key: each.gain for each in advice}["ckpt_path"] == pytest.approx(1.8)


def test_reading_limits_predictions_where_all_cores_together_read_slower_than_the_network_predicts() -> None:
    for cores, start in ((2, "reading and preprocessing: 10.0 ms"), (20, "the network: 1.00 ms")):
        assert advise_inference(forms(9, 1000), prepare=steady(100), cores=cores, channels_last=True)[0].startswith(
            start
        )


def test_a_memory_layout_is_advised_where_it_is_faster() -> None:
    _, advice = advise_inference(forms(100, 150), prepare=None, cores=2, channels_last=False)
    assert [(each.key, each.value) for each in advice] == [("model.channels_last", True)]
    assert advise_inference(forms(100, 150), prepare=None, cores=2, channels_last=True)[1] == []


def test_a_smaller_batch_is_advised_where_it_is_faster() -> None:
    found = {**forms(100, 100), ("torch", 8): steady(160)}
    _, [advice] = advise_inference(found, prepare=None, cores=2, channels_last=False)
    assert (advice.key, advice.value) == ("data.batch_size", 8)


def test_one_thread_a_process_is_advised_to_servers_whose_threads_gain_little() -> None:
    found = {("ONNX Runtime", size): steady(100 * size) for size in (1, 8, 64)}
    for rate, expected in ((90, ["clf serve --workers"]), (50, [])):
        found |= {("ONNX Runtime, 1 thread", size): steady(rate) for size in (1, 8, 64)}
        assert keys(advise_inference(found, prepare=None, cores=2, channels_last=None)[1]) == expected


def test_the_longest_phase_of_a_start_is_named() -> None:
    phases = {"imports": 2.0, "first batch": 5.0, "first step": 1.0}
    sentence, [advice] = advise_startup(phases, workers=8, compiled=False)
    assert sentence == "first batch: 5.00 of 8.00 s"
    assert (advice.key, advice.value) == ("data.num_workers", 1)
    assert advise_startup(phases, workers=1, compiled=False)[1] == []
    assert keys(advise_startup({**phases, "first step": 60.0}, workers=8, compiled=True)[1]) == ["model.compile"]


def test_imports_are_added_up_by_library() -> None:
    text = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   torch._C
import time:   2000000 |    2000100 | torch
import time:    500000 |     500000 |     json.decoder
import time:      1000 |       1000 | clf.cli
"""
    assert by_library(text) == {"torch": 2.0001, "Python's own": 0.5, "clf": 0.001}
    assert list(by_library(text)) == ["torch", "Python's own", "clf"]


def test_numbers_of_a_busy_machine_are_doubted() -> None:
    for noise, doubted in ((0.01, False), (0.5, True)):
        report = Report("data", "", {}, measurements={"loader": [series(100, noise=noise).to_dict()]}, bottleneck="x")
        assert ("something else used the machine" in report.as_text()) is doubted
        assert "advice: change nothing" in report.as_text()
