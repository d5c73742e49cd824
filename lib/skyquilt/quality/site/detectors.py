"""Page of a detector of a visit (LDM-151 6.2.1): its picture with mask and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skyquilt.quality.pages import markup
from skyquilt.quality.pages.markup import MISSING, badge, figures, link, number, table
from skyquilt.quality.site.config import PLANE_FIGURES, QualitySiteConfig
from skyquilt.quality.site.failures import failures_table
from skyquilt.quality.site.shell import Site, source_path, way_here
from skyquilt.quality.site.visits import detector_page
from skyquilt.quality.visit_pictures import MASK_GROUPS, SOURCE_CLASSES

if TYPE_CHECKING:
    import pandas as pd


def write_detectors(
    site: Site,
    visit: Mapping[str, Any],
    rows: pd.DataFrame,
    failed: Sequence[Mapping[str, Any]],
) -> None:
    records = rows.to_dict("records")
    for i, row in enumerate(records):
        detector = int(row["detector"])
        title = f"Visit {visit['visit']}, detector {site.detector_name(detector)} ({detector})"
        own = [f for f in failed if f.get("detector") is not None and int(f["detector"]) == detector]
        body = f"<h1>{markup.text(title)} {badge(row['status']).html}</h1>\n"
        if own:
            body += failures_table(own, site.config.rows_per_page, root="../../")
        body += _picture(site, int(visit["visit"]), row)
        near = [
            detector_page(records[k]["detector"]) if 0 <= k < len(records) else "" for k in (i - 1, i + 1)
        ]
        way = [link("index.html", f"Visit {visit['visit']}"), f"Detector {detector}"]
        name = f"visits/{visit['visit']}/{detector_page(detector)}"
        site.page(name, title, body, way_here("../../", way, near))


def _picture(site: Site, visit: int, row: Mapping[str, Any]) -> str:
    detector = int(row["detector"])
    picture = site.pictures.get((visit, detector))
    if picture is None:
        return (
            '<p>There is no picture of this detector.</p>\n<div class="columns"><div>'
            + _numbers(row)
            + "</div></div>\n"
        )
    paths = {"picture": picture} if isinstance(picture, str) else picture
    layered = {"image", "mask"} <= paths.keys()
    sources = site.figures_of_detector(visit, detector) if layered else None
    if sources is None:
        whole = f'<img src="{source_path(paths["picture"])}" alt="Pixels, mask and sources of the detector">'
        stage = f'<div class="viewer"><div class="stage">{whole}</div></div>\n'
        return f'<div class="columns"><div>{stage}</div><div>{_numbers(row)}</div></div>\n'
    left = _layers(paths) + _legends()
    right = "<h2>Source</h2>\n" + figures([("", "Point at a source, or choose one below.")], "source")
    right += "<h2>Detector</h2>\n" + _numbers(row)
    if "picture" in paths:
        right += f"<p>{link('../../' + paths['picture'], 'Whole picture as PNG').html}</p>\n"
    body = f'<div class="columns"><div>{left}</div><div>{right}</div></div>\n'
    return body + _sources_table(sources, site.config) + _detector_data(sources)


def _layers(paths: Mapping[str, str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" data-layer="{name}" checked> {label}</label>'
        for name, label in (("image", "Image"), ("mask", "Mask planes"), ("sources", "Sources"))
    )
    zoom = "".join(
        f'<option value="{width}%">{label}</option>'
        for width, label in ((100, "fit"), (200, "2 x"), (400, "4 x"), (800, "8 x"))
    )
    return (
        f'<div class="tools">{boxes}<label>Zoom <select id="zoom">{zoom}</select></label></div>\n'
        '<div class="viewer" id="viewer" tabindex="0" role="group" aria-label="Picture of the detector; '
        'keys n and p choose the next and previous source by brightness"><div class="stage" id="stage">'
        f'<img id="layer-image" src="{source_path(paths["image"])}" alt="Pixels of the detector">'
        f'<img id="layer-mask" class="over" src="{source_path(paths["mask"])}" alt="Mask planes">'
        "</div></div>\n"
    )


def _legends() -> str:
    classes = {name: _rgb(colour) for name, colour in SOURCE_CLASSES.items()}
    planes = {group.label: _rgb(group.colour) for group in MASK_GROUPS}
    note = "Row 0 is at the bottom. In the picture, keys n and p go through the sources by brightness."
    return markup.legend(classes, ring=True) + markup.legend(planes) + f'<p class="note">{note}</p>\n'


def _numbers(row: Mapping[str, Any]) -> str:
    pairs = [(label, number(row[name], digits)) for name, (label, digits) in PLANE_FIGURES.items()]
    return figures(
        [
            ("Status", badge(row["status"])),
            ("Reason", row["reasonCode"] or MISSING),
            *pairs,
            ("RA, Dec of centre", f"{number(row['ra'], 5)}, {number(row['dec'], 5)}"),
            ("Pixel scale", f"{number(row['pixelScale'], 4)} arcsec"),
            ("Configuration", row["configHash"] or MISSING),
        ]
    )


def _sources_table(sources: Mapping[str, Any], config: QualitySiteConfig) -> str:
    columns = [
        ("Source", False), ("Class", False), ("x [px]", True), ("y [px]", True), ("RA [deg]", True),
        ("Dec [deg]", True), ("calibFlux [nJy]", True), ("S/N of peak", True),
    ]  # fmt: skip
    shown, total = len(sources["rows"]), sources["n_sources"]
    caption = f"{total:,} primary sources" + (f", the {shown:,} brightest shown" if shown < total else "")
    page = min(config.rows_per_page, 25)
    return "<h2>Sources</h2>\n" + table(columns, [], caption=caption, identity="sources", page=page)


def _detector_data(sources: Mapping[str, Any]) -> str:
    names = ("shape", "block", "rows", "columns", "flags", "classes")
    colours = [_rgb(SOURCE_CLASSES[name]) for name in sources["classes"]]
    return markup.inlined("detector", {name: sources[name] for name in names} | {"colours": colours})


def _rgb(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
