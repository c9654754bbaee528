"""Which stages a pipeline has."""

from __future__ import annotations

from pathlib import Path

from seqkd.pipeline.expansion import graph_of
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.folders import Plan, Stage


def plan_stages(pipeline: PipelineConfig, runs: Path) -> list[Stage]:
    """All stages of a pipeline, each after those that it needs.

    Of stages with equal settings and inputs there is only the first: what names the others gets its folder.

    Raises:
        ConfigError: Names of the pipeline fit nothing.
    """
    plan = Plan(pipeline, graph_of(pipeline), runs / pipeline.name)
    stages: dict[tuple[str | None, str], Stage] = {}
    for node in plan.graph.order():
        done = plan.done.setdefault(plan.data(node).name, {})
        for stage in node.part.stages(node, plan):  # made one by one: a stage may name the folder of the one before
            settings = stage.config.model_dump_json()
            twin = stages.setdefault((stage.kind, settings), stage)
            if twin is not stage:
                plan.same[stage.out] = twin.out
            done[twin.target] = twin
    return list(stages.values())
