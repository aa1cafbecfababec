"""Every series that requests write, with its help text, labels and buckets. See `docs/metrics.md`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
CALLS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SCORE = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)

WHO = ("model_name", "strategy")


class Series:
    """The series of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._http()
        self._runs()
        self._spending()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"strop_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"strop_{name}", text, labels, buckets=buckets, registry=self._registry)

    def _http(self) -> None:
        self.requests = self._counter(
            "requests_total", "Requests answered, by HTTP status; 499: the client left.", *WHO, "status"
        )
        self.duration = self._histogram(
            "request_duration_seconds", "Wall time from the request's arrival to its last byte.", WHO, LATENCY
        )
        self.first_event = self._histogram(
            "time_to_first_event_seconds", "Wall time to the first byte of a stream, progress included.", WHO, LATENCY
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Wall time to the first word of the answer.", WHO, LATENCY
        )
        self.budget_rejections = self._counter(
            "budget_rejections_total", "Requests refused because of a budget or rate limit, by error code.", "code"
        )
        self.retries = self._counter(
            "client_retries_total", "Requests that the client's SDK marked as a retry.", "strategy"
        )

    def _runs(self) -> None:
        self.in_flight = Gauge(
            "strop_requests_in_flight", "Strategies running now.", ("strategy",), registry=self._registry
        )
        self.queue = self._histogram("queue_seconds", "Time spent waiting for admission.", ("strategy",), LATENCY)
        self.overhead = self._histogram(
            "overhead_seconds", "Time of a run during which no engine or scorer worked on it.", ("strategy",), OVERHEAD
        )
        self.calls = self._histogram(
            "engine_calls_per_request", "Generations started for one request, judges included.", WHO, CALLS
        )
        self.stops = self._counter("stop_reasons_total", "How runs ended.", "strategy", "reason")
        self.degraded = self._counter(
            "degraded_answers_total", "Answers served although the strategy did not finish.", "strategy", "how"
        )
        self.scores = self._histogram(
            "candidate_score",
            "Scores of candidate answers, by scorers whose scores are not negative.",
            ("strategy", "scorer", "selected"),
            SCORE,
        )

    def _spending(self) -> None:
        self.tokens = self._counter(
            "tokens_total",
            "Tokens on the bills of requests; completion + refinement + judge is everything generated.",
            *WHO,
            "type",
        )
        self.phases = self._counter(
            "phase_tokens_total", "Tokens generated in each phase of a strategy.", "strategy", "phase"
        )
        self.cost = self._counter("cost_usd_total", "Cost of requests at the price table.", "tenant", "strategy")
        self.unpriced = self._counter(
            "unpriced_requests_total", "Requests whose cost is unknown for want of a price.", "tenant", "strategy"
        )
        self.gpu = self._counter(
            "gpu_seconds_total", "Seconds that engines worked on requests; CPU time where there is no GPU.", *WHO
        )
