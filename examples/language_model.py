"""The next character of Python's standard library, by a small GPT and AdamW."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from examples.networks import gpt
from examples.training import Job, adamw, main

LENGTH = 64
MODULES = ("argparse", "ast", "dataclasses", "datetime", "difflib", "functools", "heapq", "inspect")
CHARACTERS = (
    "\n !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
)


def text() -> Tensor:
    """Returns the sources of some modules as numbers; other characters than the usual ones are left out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in MODULES)
    number = {character: place for place, character in enumerate(CHARACTERS)}
    return torch.tensor([number[character] for character in sources if character in number])


def make(seed: int) -> Job:
    """The next character of Python's standard library, by a small GPT and AdamW."""
    characters = text()
    pieces = characters[: len(characters) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    # Whole stretches are held out, since neighbouring pieces are much alike.
    stretches = pieces[: len(pieces) // 40 * 40].view(40, -1, LENGTH + 1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    parts = [stretches[at].flatten(0, 1) for at in order.tensor_split([4, 8])]
    test, holdout, train = ((part[:, :-1], part[:, 1:]) for part in parts)
    torch.manual_seed(seed)
    model = gpt(len(CHARACTERS), LENGTH)
    return Job(
        *(model, train, holdout, test),
        updates=600,
        optimizer=adamw,
        rate=1e-3,
        batch_size=16,
        holdout_batches=2,  # of 64 characters each
    )


if __name__ == "__main__":
    main(make)
