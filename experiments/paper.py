"""Every figure and table of the paper on one data set: what is missing is run, all drawn, RESULTS.md says what holds.

    python -m experiments.paper dataset=mini seed=0,1,2 [model=dcnv2,dnn] [scale=1,2,4,10] [--plan]

--plan shows the runs that are there and missing, hours and memory, and stops. Files: `<output_dir>/paper/<dataset>/`.

`model=` and `scale=` choose those of the tables and curves; artefacts about one model keep it, those about the enlarged
model take the largest scale. Runs that several artefacts need are made once. `toy.seeds=2`: words of the toy experiment
(`experiments.fig4`), which is done once.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments import fig1, fig2, fig3, fig4, fig5, fig6, fig8a, fig8b, fig8c, fig8d, scaling, table1, table2
from experiments.results import write_results
from experiments.study import Artefact, draw, folder_of, plan_of, run_missing, union
from experiments.words import PLAN_ONLY, Words, arguments, parse, said
from recsys_collapse.launch.plan import Plan, compose_jobs
from recsys_collapse.run import guarded
from recsys_collapse.runs.durable import remove
from recsys_collapse.runs.records import read_result
from recsys_collapse.runs.version import code_version

MODULES = (table1, fig1, fig2, fig3, fig5, fig6, fig8a, fig8b, fig8c, fig8d, scaling)
ARTEFACTS = tuple(module.ARTEFACT for module in MODULES)
TOY = "toy."


def words_for(artefact: Artefact, words: Words) -> Words:
    """Those of the user's words that are about this artefact."""
    left_out = {*(() if artefact.any_model else ("model",)), *(("scale",) if artefact.own_scale else ())}
    return {key: value for key, value in words.items() if key not in left_out}


def plans_of(words: Words) -> dict[str, Plan]:
    """Of every artefact, in one group.

    Raises:
        ValueError: a word is wrong.
    """
    together = {"group": "paper", **words}
    return {artefact.name: plan_of(artefact, words_for(artefact, together)) for artefact in ARTEFACTS}


def run(argv: Sequence[str]) -> int:
    """Plan, price, run, draw; 1 if something is missing in the end."""
    argued, only_plan = parse([word for word in argv if word != PLAN_ONLY]), PLAN_ONLY in argv
    words = {key: value for key, value in argued.items() if not key.startswith(TOY)}
    toy_words = {key.removeprefix(TOY): value for key, value in argued.items() if key.startswith(TOY)}
    plans = plans_of(words)
    plan = union(list(plans.values()))
    toy_config = compose_toy(plan.output_dir, toy_words)
    run_missing(plan, only_plan)
    if only_plan:
        return 0
    missing = []
    for artefact in ARTEFACTS:
        own = plans[artefact.name]
        if all(read_result(job.run_dir, job.run_id) is not None for job in own.jobs):
            try:
                draw(artefact, own, words_for(artefact, words))
            except ValueError as error:  # the others do not depend on it
                missing.append(f"{artefact.name} ({error})")
        else:
            missing.append(f"{artefact.name} (for want of runs)")
            remove(folder_of(own) / f"{artefact.name}.json")
    table2.table2(plan.config, {key: value for key, value in words.items() if key.startswith("dataset")})
    toy = plan.output_dir / "paper" / "toy"
    if not is_drawn(toy / "fig4.json", toy_words):
        fig4.act(toy_config, arguments(toy_words))
    path = write_results([folder_of(plan), toy], folder_of(plan), said("paper", argued))
    print(f"results  {path}")
    if missing:
        print(f"not drawn: {', '.join(missing)}; the same command tries them again", file=sys.stderr)
    return 1 if missing else 0


def compose_toy(output_dir: Path, words: Words) -> DictConfig:
    """The config of Figure 4.

    Raises:
        ValueError: a word is wrong.
    """
    configs = compose_jobs([*arguments(words), f"output_dir={output_dir}"], "toy")
    assert configs is not None
    fig4.check_options(configs[0])
    return configs[0]


def is_drawn(path: Path, words: Words) -> bool:
    """Whether this code has drawn Figure 4 with these words."""
    before = json.loads(path.read_text()) if path.exists() else {}
    return (before.get("command"), before.get("code_version")) == (said("fig4", words), code_version())


def main() -> int:
    """The command; its exit code."""
    argv = sys.argv[1:]
    if {"-h", "--help"} & {*argv}:
        print(__doc__.strip())
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return guarded("experiments.paper", lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
