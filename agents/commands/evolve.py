"""`python -m agents evolve`: a classifier trained by an evolution strategy."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.evolving.classifiers import (
    PICTURE_NAME,
    WEIGHTS_NAME,
    EvolveConfig,
    EvolveFolder,
    check_evolve,
    evolve_classifier,
)
from agents.evolving.workers import make_workers
from agents.runs.lifecycle import Interrupted
from agents.runs.progress import bars, in_words
from agents.training.hyperparameters import replaced_hyperparameters

EVOLVED = Path("runs/classifiers")
"""Where classifiers' runs are written, unless another folder is named."""


@dataclass
class Evolve:
    """Train a classifier itself by an evolution strategy, without gradients."""

    dataset: str = "mnist"
    """Name of the data set."""

    classifier: str = "mlp-200-50"
    """Name of the architecture, such as linear, mlp-200-50 or cnn."""

    generations: int = 16_000
    """Generations to make."""

    seed: int = 0
    """Seed of the first weights, the noise, the minibatches and the split."""

    train_size: int | None = None
    """Images of the train part; by default all that validation leaves."""

    validation_size: int | None = None
    """Images that choose the network; by default a twelfth of those that are not test images."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of the defaults, each as NAME=VALUE: batch_size, candidates,
    fitness (log_loss or accuracy), initialization, schedule, block_size, backend, threads, or an argument
    of EvolutionStrategy such as rank=null (full noise), population_size=512, learning_rate=0.03."""

    evaluation_generations: int = 100
    """Generations between two evaluations, each with a checkpoint."""

    output: Path | None = None
    """Run folder; by default runs/classifiers/DATASET-CLASSIFIER-SEED."""

    resume: bool = False
    """Go on from the newest checkpoint of a run with this very configuration; begin it if there is none.
    Checkpoints are plain data, which run no code when they are read."""

    of_others: bool = False
    """Go on with a run that another account has written, too."""

    overwrite: bool = False
    """Replace a run that is there."""

    workers: str = "serial"
    """Where members are evaluated: serial, processes or ray; changes no result."""

    num_workers: int | None = None
    """Processes, or CPUs of a Ray cluster begun here; by default as many as there are CPUs."""

    ray_address: str | None = None
    """Address of a running Ray cluster, such as auto or HOST:6379; by default one is begun here."""

    def run(self, console: Console) -> None:
        """Evolve a classifier, and say how good it is and where it was written."""
        config = self.configuration()
        folder = EvolveFolder(
            self.output or EVOLVED / f"{config.dataset}-{config.classifier}-{config.seed}"
        )
        workers = make_workers(self.workers, self.num_workers, self.ray_address, console.print)
        if folder.path.exists() and not folder.path.is_dir():
            raise FileExistsError(f"{folder.path} is no folder")
        with closing(workers), folder.locked():
            folder.open(config, resume=self.resume, overwrite=self.overwrite, of_others=self.of_others)
            try:
                with bars(console) as bar, bar(f"evolving {config.classifier}") as report:
                    result = evolve_classifier(
                        config, folder, report, workers, resume=self.resume, announce=console.print
                    )
            except Interrupted:
                console.print(
                    f"Saved. Go on with the same command and --resume: {folder.path}", soft_wrap=True
                )
                sys.exit(130)
        validation, test = result["validation"]["accuracy"], result["test"]["accuracy"]
        console.print(
            f"{result['generations']:,} generations in {in_words(60 * result['minutes'])}; of the network "
            f"that validation chose (generation {result['chosen_generation']:,}): validation accuracy "
            f"{validation:.4f}, test accuracy {test:.4f}. Written to {folder.path / WEIGHTS_NAME}, "
            f"with a picture beside it, {PICTURE_NAME}",
            soft_wrap=True,
        )

    def configuration(self) -> EvolveConfig:
        """Returns everything that decides what is computed, checked.

        Raises:
            InvalidValueError: If something is not allowed.
        """
        config = EvolveConfig(
            dataset=self.dataset,
            classifier=self.classifier,
            seed=self.seed,
            generations=self.generations,
            evaluation_generations=self.evaluation_generations,
            train_size=self.train_size,
            validation_size=self.validation_size,
            hyperparameters=replaced_hyperparameters(self.hyperparameters, {}),
        )
        check_evolve(config)
        return config
