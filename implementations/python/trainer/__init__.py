"""What every Python trainer here has in common: the command line, the data, the recipe, the clock and
the events. A framework's own `train.py` holds the model and the training step, in that framework's
idiom, and nothing else. numpy and the standard library only.

    import trainer

    command = trainer.read_command("Mine", backends={"cpu": "the CPU"}, compiles=True)
    with trainer.requirements(command):
        import mine  # after the command line is read: thread counts are environment variables

    class Session(trainer.Session): ...

    if __name__ == "__main__":
        trainer.main(command, probe, Session)
"""

import time

BEGAN = time.perf_counter()  # before numpy and the framework are imported: that is set-up too

from .command import Failure, Unavailable, read_command, requirements  # noqa: E402
from .session import Device, Job, Session, cpu  # noqa: E402

VERSION = "0.1.0"


def main(command, devices, session):
    """Trains, or answers `--probe`; never returns. `devices(backend)` lists the `Device`s of a backend
    or raises `Unavailable`; `session` is the framework's `Session`."""
    from .run import main as run  # imports numpy: only now, when thread counts are set

    run(command, devices, session)
