"""What a framework's own code is asked for."""


class Session:
    """A model on a device, ready to be trained. Parameters and moments are dictionaries of float32 numpy
    arrays, with nanoGPT's names and PyTorch's shapes (`recipe.shapes`)."""

    device = "unknown"  # its name
    path = None  # which code computes, for example "eager, SDPA"
    version = None  # the framework's
    threads = None  # those that really compute; None: as many as the command says

    def __init__(self, command, shape, text):
        """`shape`: the model's sizes, the vocabulary known. `text`: (tokens,), uint16, to train on."""
        raise NotImplementedError

    def set_parameters(self, parameters):
        """Begins a training: moments are zero, no step is done."""
        raise NotImplementedError

    def train(self, starts, rates):
        """One step of AdamW for each row of `starts`, (steps, batch), int64: where its windows start in
        the text; of several ranks each has its share of the batch. `rates`: (steps,), float64. Returns the mean loss of each step, float32, (steps,), with
        the device synchronised."""
        raise NotImplementedError

    def state(self):
        """Parameters, first moments and second moments, three dictionaries."""
        raise NotImplementedError

    def predict(self, tokens):
        """Logits, float32, (windows, context, vocabulary). `tokens`: (windows, context), int64; there are
        as many windows as in a step, always."""
        raise NotImplementedError

    def warm_up(self, starts, rates):
        """Whatever comes before the clock starts, so that everything is compiled, allocated and awake.
        The arguments are those of the first call of `train`; the parameters are set anew afterwards."""
        self.train(starts[:3], rates[:3])

    def meet(self):
        """Waits for the other ranks, if there are any."""

    def close(self):
        """Leaves the other ranks."""

    def measured(self):
        """What the framework knows of the run: `device_s`, `device_peak_bytes`."""
        return {}
