"""What every Python trainer of the model gpt has in common: the command line, the text, the recipe, the
clock and the events. A framework's own `gpt.py` holds the model and the training step, in that framework's
idiom, and nothing else. numpy and the standard library only.

    from trainer import gpt

    command = gpt.read_command("Mine", backends={"cpu": "the CPU"}, compiles=True)
    with trainer.requirements(command):
        import mine

    class Session(gpt.Session): ...

    if __name__ == "__main__":
        gpt.main(command, devices, Session)
"""

from .command import Command, Shape, read_command
from .session import Session

__all__ = ["Command", "Session", "Shape", "main", "read_command"]


def main(command, devices, session):
    """Trains, or answers `--probe`; never returns. `devices(backend)` lists the `Device`s of a backend or
    raises `Unavailable`; `session` is the framework's `Session`."""
    from .run import main as run  # imports numpy: only now, when thread counts are set

    run(command, devices, session)
