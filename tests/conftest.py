"""What the whole suite shares: one thread for torch, a device without values, mechanistic fits that are made once."""

import contextlib
import copy
import inspect

import pytest
import torch

pytest_plugins = [
    "faults.tally"
]  # here, because a run with several workers counts in the process that collects nothing

torch.set_num_threads(1)  # as many workers as cores: more threads would only wait for each other


@pytest.fixture(scope="session")
def fake_device():
    """A device on which every read by the host and every mixture with another device raises."""
    from torch.utils import backend_registration

    if torch._C._get_privateuse1_backend_name() != "fakegpu":
        backend_registration._setup_privateuseone_for_python_backend("fakegpu")
    # registration outlives the tests, and torch.utils.checkpoint asks every backend for this
    torch.fakegpu.get_amp_supported_dtype = lambda: [torch.float16]
    return torch.device("fakegpu")


@pytest.fixture(scope="session")
def sharing():
    """A context in which the same equation, record and options are fitted once; the default is one starting point.

    Fits are deterministic, so a second one would give the same bits. Only for tests that look at what
    comes after a fit: pages, figures, examples, commands.
    """
    kept = {}

    @contextlib.contextmanager
    def context():
        from scidyn.sysid import MechanisticODE
        from scidyn.sysid.observations import checksum, observe

        signature = inspect.signature(MechanisticODE.__init__).parameters.values()
        defaults = {p.name: p.default for p in signature if p.default is not p.empty}
        original = MechanisticODE.fit

        def fit(self, ds, **options):
            obs = observe(ds, self.noise)
            settings = {**self.get_params(), "system": (type(self.system), dict(self.system.values))}
            key = (repr(sorted(settings.items())), checksum(obs.batch), repr(obs.units), repr(dict(ds.sizes)))
            if key not in kept:
                kept[key] = copy.deepcopy(original(self, ds, **options).__dict__)
            self.__dict__.update(copy.deepcopy(kept[key]) | self.get_params())
            return self

        with pytest.MonkeyPatch.context() as patch:
            few = tuple((defaults | {"starts": 1}).values())
            patch.setattr(MechanisticODE.__init__, "__defaults__", few)
            patch.setattr(MechanisticODE, "fit", fit)
            yield

    return context


@pytest.fixture
def shared_fits(sharing):
    """The whole test inside :func:`sharing`."""
    with sharing():
        yield
