"""Times decisions of DACBench's SGD environment; run by `peers` in an environment of its own.

Reads the arguments as JSON from the command line, then a line from the standard input for each measurement
(`epoch 1` or `update 20`: which environment, how many decisions) and answers with a line of JSON.
"""

import contextlib
import io
import json
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any


def make_environment(arguments: dict[str, Any], epoch_mode: bool) -> Any:
    """DACBench's own benchmark with one instance of ours: its loaders, its optimiser, its evaluation."""
    from dacbench.benchmarks import SGDBenchmark
    from dacbench.envs import SGDInstance
    from dacbench.envs.env_utils.sgd_utils import get_model_constructor

    instance = SGDInstance(
        model=get_model_constructor("from_file", [arguments["network_file"]]),
        optimizer_type="AdamW",
        optimizer_params={},
        dataset_path=arguments["data_root"],
        dataset_name="MNIST",
        batch_size=arguments["batch_size"],
        fraction_of_dataset=1.0,
        train_validation_ratio=arguments["train_validation_ratio"],
        seed=0,
    )
    benchmark = SGDBenchmark()
    benchmark.config["instance_set"] = {0: instance}
    benchmark.config["epoch_mode"] = epoch_mode
    # An episode that does not end while it is measured, and no multiple of an epoch: then every
    # decision is followed by an evaluation on a tenth of the validation part.
    benchmark.config["cutoff"] = 10**6 + 1
    return benchmark.get_environment()


def main() -> None:
    """Answer until the input ends."""
    arguments = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        import torch

        environments = {name: make_environment(arguments, name == "epoch") for name in ("epoch", "update")}
        for environment in environments.values():
            environment.reset()
    either = environments["epoch"]
    about = {
        "versions": {
            name: version(name) for name in ("dacbench", "torch", "torchvision", "gymnasium", "numpy")
        },
        "threads": torch.get_num_threads(),
        "updates_per_epoch": len(either.train_loader),
        "train_images": len(either.train_loader.dataset),
        "validation_images": len(either.validation_loader.dataset),
        "network": str(either.model),
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        mode, decisions = line.split()
        environment = environments[mode]
        start = time.perf_counter()
        for _ in range(int(decisions)):
            environment.step(arguments["learning_rate"])
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
