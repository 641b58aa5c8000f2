"""What /metrics tells, in Prometheus' text format. Names of our own, and the main ones under the names that dashboards
and routers know from vLLM and llama.cpp. Touched by the event loop's thread only."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# our name -> (type, help, the names of others)
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "requests_total": ("counter", "Responses by endpoint and status.", ()),
    "rejections_total": (
        "counter",
        "Requests refused because of the server's state, by reason.",
        ("vllm:admission_rejections",),
    ),
    "disconnects_total": ("counter", "Requests whose client left before the end.", ()),
    "prompt_tokens_total": (
        "counter",
        "Tokens of prompts that were answered.",
        ("vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_queries"),
    ),
    "cached_tokens_total": (
        "counter",
        "Tokens of prompts that came from the prefix cache.",
        (
            "vllm:prompt_tokens_cached",
            "vllm:prefix_cache_hits_total",
            "vllm:prefix_cache_hits",
            "llamacpp:prompt_tokens_cached_total",
        ),
    ),
    "computed_tokens_total": (
        "counter",
        "Tokens of prompts that were computed.",
        ("llamacpp:prompt_tokens_total",),
    ),
    "completion_tokens_total": (
        "counter",
        "Tokens of answers.",
        ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"),
    ),
    "passes_total": ("counter", "Passes of the model.", ("llamacpp:n_decode_total",)),
    "drafts_total": (
        "counter",
        "Tokens that were tried before they were chosen.",
        ("vllm:spec_decode_num_draft_tokens_total",),
    ),
    "drafts_accepted_total": (
        "counter",
        "Tokens that were tried, and chosen.",
        ("vllm:spec_decode_num_accepted_tokens_total",),
    ),
    "engine_errors_total": ("counter", "Passes and answers that an error ended.", ()),
    "requests_running": (
        "gauge",
        "Answers being made.",
        ("vllm:num_requests_running", "llamacpp:requests_processing"),
    ),
    "requests_waiting": (
        "gauge",
        "Prompts that have not begun.",
        ("vllm:num_requests_waiting", "llamacpp:requests_deferred"),
    ),
    "kv_usage_ratio": ("gauge", "Share of the planned tokens that is taken.", ("vllm:kv_cache_usage_perc",)),
    "cache_evictions_total": ("counter", "Snapshots that gave way to others in memory.", ()),
    "cache_canaries_total": ("counter", "Snapshots that were computed again, and compared.", ()),
    "cache_mismatches_total": ("counter", "Of them, those that were not the same: above 0, please report it.", ()),
    "cache_disk_bytes": ("gauge", "Of the states of prompts on disk that can be found.", ()),
    "cache_disk_records": ("gauge", "Pages, snapshots and answers among them.", ()),
    "cache_disk_hits_total": ("counter", "Prompts that went on from a state on disk.", ()),
    "cache_disk_tokens_total": ("counter", "Their tokens that were read from disk.", ()),
    "cache_disk_written_bytes_total": ("counter", "Bytes written to disk for the prefix cache.", ()),
    "cache_disk_dropped_total": ("counter", "Pages and snapshots that were to be written, and were not.", ()),
    "cache_disk_damaged_total": ("counter", "Places of files, or records, that were not what was written.", ()),
    "cache_disk_errors_total": ("counter", "Errors of the system at reading and writing them.", ()),
    "time_to_first_token_seconds": (
        "histogram",
        "From the request to the first piece of its answer.",
        ("vllm:time_to_first_token_seconds",),
    ),
    "inter_token_seconds": (
        "histogram",
        "Between two pieces of one response.",
        ("vllm:inter_token_latency_seconds",),
    ),
    "request_seconds": (
        "histogram",
        "From the request to the end of its answer.",
        ("vllm:e2e_request_latency_seconds",),
    ),
    "queue_seconds": ("histogram", "From the request until its prompt is read.", ("vllm:request_queue_time_seconds",)),
}


class Histogram:
    """Counts of seconds up to each bound, their sum and number."""

    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(SECONDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Its samples under a name."""
        total = 0
        for bound, count in zip([*map(str, SECONDS), "+Inf"], self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


def _number(value: float) -> str:
    """All its digits: a counter that is rounded does not grow."""
    return str(int(value)) if value == int(value) else repr(float(value))


class Metrics:
    """Counters with labels, and histograms; gauges are read when they are told."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # (name, labels) -> count
        self.histograms = {name: Histogram() for name, (kind, _, _) in METRICS.items() if kind == "histogram"}

    def count(self, name: str, by: float = 1, **labels: object) -> None:
        """Add to a counter."""
        self.counts[name, ",".join(f'{key}="{value}"' for key, value in labels.items())] += by  # type: ignore[assignment]

    def seconds(self, name: str, seconds: float) -> None:
        """Add to a histogram."""
        self.histograms[name].add(seconds)

    def text(self, read: Mapping[str, float]) -> str:
        """Everything, with the values that are `read` now."""
        lines: list[str] = []
        for name, (kind, about, others) in METRICS.items():
            for full in (f"ingot_{name}", *others):
                lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}", *self._samples(name, full, read)]
        return "\n".join(lines) + "\n"

    def _samples(self, name: str, full: str, read: Mapping[str, float]) -> Sequence[str]:
        if name in self.histograms:
            return list(self.histograms[name].lines(full))
        if name in read:
            return [f"{full} {_number(read[name])}"]
        found = {labels: count for (one, labels), count in self.counts.items() if one == name}
        if not found:
            return [f"{full} 0"] if name not in ("requests_total", "rejections_total") else []
        return [f"{full}{{{labels}}} {count}" if labels else f"{full} {count}" for labels, count in found.items()]
