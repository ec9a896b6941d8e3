"""Write the sample logs that the tests read: python tests/evaluate/renew_lm_eval_logs.py, where lm-eval is installed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import tiny_language as tiny  # noqa: E402
from modelwright.evaluate import CausalPredictor, harness_model  # noqa: E402


def main() -> None:
    """Ask the tiny model about all tasks here, and keep results and samples."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    words = tiny.tokenizer()
    system = CausalPredictor("tiny", module=tiny.model("llama", len(words)), tokenizer=words)
    with tempfile.TemporaryDirectory() as made:
        for path in (HERE / "lm_eval_tasks").iterdir():
            text = path.read_text(encoding="utf-8").replace("DATA", str(HERE / "lm_eval_tasks"))
            (Path(made) / path.name).write_text(text, encoding="utf-8")
        tracker = EvaluationTracker(output_path=str(HERE / "lm_eval_logs"))
        results = lm_eval.simple_evaluate(
            model=harness_model(system), model_args="pretrained=tiny", tasks=["tiny_choice", "tiny_write", "tiny_text"],
            task_manager=TaskManager(include_path=made, include_defaults=False), bootstrap_iters=0, evaluation_tracker=tracker,
        )  # fmt: skip
    samples = results.pop("samples")
    # Of the machine and its paths nothing is kept.
    kept = ("results", "versions", "n-shot", "higher_is_better", "n-samples", "lm_eval_version")
    import importlib.metadata

    slim = {key: results[key] for key in kept if key in results}
    slim["lm_eval_version"] = importlib.metadata.version("lm_eval")
    slim["config"] = {"model": "tiny"}
    tracker.save_results_aggregated(results=slim, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)


if __name__ == "__main__":
    main()
