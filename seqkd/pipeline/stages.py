"""The list of all stages of a pipeline."""

from __future__ import annotations

from pathlib import Path

from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.folders import Plan, Stage


def plan_stages(pipeline: PipelineConfig, runs: Path) -> list[Stage]:
    """Plan all stages of a pipeline, each after the stages that it needs.

    Only the first of stages with equal settings and inputs is kept. References to the others get its folder.

    Raises:
        ConfigError: Names in the pipeline do not name a part.
    """
    plan = Plan(pipeline, build_graph(pipeline), runs / pipeline.name)
    stages: dict[tuple[str | None, str], Stage] = {}
    for node in plan.graph.sort():
        done = [plan.done.setdefault(data.name, {}) for data in plan.list_data(node)]
        for stage in node.part.stages(node, plan):  # one by one, because a stage may name the folder of the one before
            settings = stage.config.model_dump_json()
            twin = stages.setdefault((stage.kind, settings), stage)
            if twin is not stage:
                plan.same[stage.out] = twin.out
            for stages_of_data in done:
                stages_of_data[twin.target] = twin
    return list(stages.values())
