"""Cost of planning a survey (design 3): CPU and memory of Snakemake's graph of all stages.

    python benchmarks/graph_size.py [VISITS ...]

Stages that are not built yet are stand-ins with the inputs and outputs of the design. `graph` is what every
start of a production pays; `dry run` is the graph and a message of every job.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

PLACE = Path(__file__).resolve().parents[1] / "tests" / "workflow" / "planned_survey" / "planned_survey.py"


def load_planned_survey():
    """The module beside the test that holds the limit."""
    spec = importlib.util.spec_from_file_location("planned_survey", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(sizes: list[int]) -> None:
    """Print a row for every number of visits."""
    planned = load_planned_survey()
    print(" visits    jobs   edges  graph CPU s     MB  ms a job  dry run CPU s     MB")
    for n_visits in sizes:
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            planned.write_planned_survey(root, n_visits)
            graph = planned.plan(root)
            dry = planned.plan(root, "--dry-run", "--quiet", "rules")
            jobs = planned.counted_jobs(graph.output).total()
            edges = planned.counted_edges(graph.output)
            print(
                f"{n_visits:>7} {jobs:>7} {edges:>7} {graph.cpu_seconds:>12.1f} {graph.peak_rss_mb:>6.0f} "
                f"{1000 * graph.cpu_seconds / jobs:>9.2f} {dry.cpu_seconds:>14.1f} {dry.peak_rss_mb:>6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [100, 300, 1000])
