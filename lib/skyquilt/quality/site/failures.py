"""Page of failures (LDM-151 6.2.1): every unit without, or with a reserved, result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from skyquilt.primitives.failure import REASON_TEXTS
from skyquilt.quality.pages import markup
from skyquilt.quality.pages.markup import MISSING, Cell, Raw, link, table
from skyquilt.quality.site.shell import Site


def write_failures(site: Site) -> None:
    """Write the page."""
    body = "<h1>Failures</h1>\n"
    if site.failures:
        body += failures_table(site.failures, site.config.rows_per_page, root="")
    else:
        body += "<p>Nothing failed.</p>\n"
    site.page("failures.html", "Failures", body, [link("index.html", "Overview"), "Failures"])


def failures_table(failures: Sequence[Mapping[str, Any]], rows_per_page: int, *, root: str) -> str:
    """Failures as a table; `root` leads from the page to index.html."""
    columns = [
        ("Stage", False),
        ("Visit", True),
        ("Detector", True),
        ("Reason", False),
        ("What was found", False),
    ]
    rows = []
    for failure in failures:
        visit, detector, reason = failure.get("visit"), failure.get("detector"), failure.get("reason") or ""
        where = MISSING if visit is None else link(f"{root}visits/{visit}/index.html", visit)
        which = MISSING if detector is None else detector
        found = failure.get("detail") or reason_text(reason)
        code = Cell(Raw(f"<code>{markup.text(reason)}</code>"), reason)
        rows.append(
            [failure.get("stage") or "", Cell(where, "" if visit is None else visit), which, code, found]
        )
    return table(columns, rows, caption="Units without a result, or with a flagged one", page=rows_per_page)


def reason_text(reason: str) -> str:
    """Sentence of a reason code; empty for one that is not known."""
    return {code.value: sentence for code, sentence in REASON_TEXTS.items()}.get(reason, "")


def failure_order(failure: Mapping[str, Any]) -> tuple[Any, ...]:
    """Key that sorts failures, those of no visit first."""
    visit, detector = failure.get("visit"), failure.get("detector")
    return (
        -1 if visit is None else int(visit),
        -1 if detector is None else int(detector),
        *(str(failure.get(name) or "") for name in ("stage", "reason", "detail")),
    )


def grouped_failures(failures: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Visit -> its failures."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for failure in failures:
        if failure.get("visit") is not None:
            groups.setdefault(int(failure["visit"]), []).append(failure)
    return groups


def failure_summary(site: Site) -> str:
    """Counts by stage and reason, for the first page."""
    if not site.failures:
        return "<p>Nothing failed.</p>\n"
    counts = Counter((f.get("stage") or "", f.get("reason") or "") for f in site.failures)
    rows = [
        [stage, Cell(Raw(f"<code>{markup.text(reason)}</code>"), reason), reason_text(reason), number_]
        for (stage, reason), number_ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    columns = [("Stage", False), ("Reason", False), ("Meaning", False), ("Units", True)]
    everything = link("failures.html", f"All {len(site.failures):,} failures")
    return table(columns, rows, caption="Failures by reason") + f"<p>{everything.html}</p>\n"
