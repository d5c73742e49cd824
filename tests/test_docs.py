"""The documentation is true: links, generated pages, commands, code and configuration in it."""

import ast
import importlib.util
import re
import shlex

import pytest
import yaml
from doc_pages import ROOT, blocks, pages, prose

from skyquilt.io.reference_catalog import ReferenceCatalogMap
from skyquilt.primitives import sky_map
from skyquilt.workflow import config
from skyquilt.workflow.cli import build_parser
from skyquilt.workflow.generated import generated_files
from skyquilt.workflow.ingest import read_exclusions

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`(skyquilt\s[^`]+)`")
SHELL_ENDS = ("|", "||", "&&", "&", ";", ">", ">>", "2>")
GENERATE = "python -m skyquilt.workflow.generated"


def slug(heading):
    """Anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)}


@pytest.mark.parametrize("page", sorted(pages()))
def test_links_resolve(page):
    """Every relative link names a file of the repository, and a heading in it where it has a #."""
    broken = []
    for target in LINK.findall(prose(pages()[page])):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert not broken, f"{page} has links to nothing: {', '.join(broken)}"


def test_generated_files_are_what_the_code_says():
    """Default options, environment and the pages that list things are those that the code writes."""
    stale = [name for name, text in generated_files().items() if not _same(ROOT / name, text)]
    assert not stale, f"stale or missing: {', '.join(stale)}; mend them with: {GENERATE}"


def _same(path, text):
    return path.is_file() and path.read_text() == text


def commands():
    """(where, words) of each skyquilt command in a shell block or, design notes aside, in running text."""
    found = []
    for block in blocks("sh", "bash", "console"):
        found += [(str(block), words) for words in commands_in(block.text)]
    for page, text in pages().items():
        if not page.startswith("docs/design/"):
            found += [(page, shlex.split(command)) for command in INLINE_COMMAND.findall(prose(text))]
    return found


def commands_in(text):
    """Words of the skyquilt commands in shell text, those in the quoted argument of another command too."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "skyquilt" in words:
            words = words[words.index("skyquilt") :]
            end = next((i for i, word in enumerate(words) if word in SHELL_ENDS), len(words))
            found.append(words[:end])
        else:
            for word in words:
                found += commands_in(word) if word.startswith("skyquilt ") else []
    return found


@pytest.mark.parametrize(("where", "words"), commands(), ids=str)
def test_commands_are_understood(where, words, capsys):
    """The command line's own parser takes every command shown, with all of its options."""
    try:
        build_parser().parse_args(words[1:])
    except SystemExit as error:
        # --help and --version end the program too, with 0
        code = error.code
    else:
        code = 0
    assert code == 0, f"{where}: {' '.join(words)}: {capsys.readouterr().err}"


def test_make_targets_and_modules_exist():
    """`make TARGET` is in the Makefile; `python -m MODULE` can be found."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(pages().values())
    shown = set(re.findall(r"(?:^ {4}|`)make ([\w-]+)", text, re.MULTILINE))
    assert shown <= targets, shown - targets
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block):
    """Every Python block is Python."""
    ast.parse(block.text, filename=str(block))


def test_the_sky_map_example_runs():
    """The code on the page of sky maps does what it says."""
    (block,) = blocks("python", page="docs/sky_map.md")
    space = {}
    exec(compile(block.text, str(block), "exec"), space)
    shown = re.search(r"# (Tract\(.*\))", block.text)[1]
    assert repr(space["sky_map"].tract(space["tract"])) == shown
    # half of tract_overlap_deg: 0.01 deg
    assert space["sky_map"].guard_radius_deg * 3600 == pytest.approx(36.0)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_valid_configuration(block, tmp_path):
    """Sections of a survey, the camera's `isr`, or options of a profile: nothing that would be refused."""
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict), block
    if set(content) == {"isr"}:
        config.build("isr", (content, str(block)))
    elif "default-resources" in content:
        known = (ROOT / "profiles" / "slurm" / "config.yaml").read_text()
        for option in [*content, *content["default-resources"]]:
            assert re.search(rf"^[#\s]*{re.escape(option)}:", known, re.MULTILINE), f"{block}: {option}"
    elif not block.page.startswith("docs/cameras"):
        check_survey_layer(content, str(block), tmp_path)


def check_survey_layer(content, where, directory):
    config.check_sections(content, where)
    for name in set(content) & set(config.SECTIONS):
        config.build(name, (content, where))
    if "sky_map" in content:
        sky_map.from_config(content["sky_map"])
    if "reference" in content:
        ReferenceCatalogMap.from_dict(content["reference"], directory)


def test_the_exclusion_table_is_read(tmp_path):
    """The table on the page of running a survey means what the text below it says."""
    (block,) = blocks("csv", page="docs/running.md")
    (tmp_path / "exclusions.csv").write_text(block.text)
    rows = [(e.visit, e.detector, e.amplifier, e.reason) for e in read_exclusions(tmp_path, "exclusions.csv")]
    assert rows == [
        (260101002, None, None, "telescope moved"),
        (None, 3, None, "dead since January"),
        (260101001, 0, "A2", "light leak"),
    ]


def test_the_message_for_a_misspelt_option_is_the_one_shown():
    """The page of configuration quotes a message word by word."""
    (block,) = blocks("text", page="docs/configuration.md")
    with pytest.raises(config.ConfigurationError) as error:
        config.build(
            "bootstrap_im_char", ({"bootstrap_im_char": {"detection": {"treshold": 4.0}}}, "survey.yaml")
        )
    assert block.text.strip() == f"skyquilt: {error.value}"


def test_every_page_is_reached():
    """Each page of docs, design notes aside, is linked from the index or the README, where readers come in."""
    entries = "".join(pages()[name] for name in ("README.md", "docs/index.md"))
    linked = {target.partition("#")[0].split("/")[-1] for target in LINK.findall(entries)}
    own = [name for name in pages() if name.count("/") == 1]
    lost = [name for name in own if name.split("/")[-1] not in linked | {"index.md"}]
    assert not lost
