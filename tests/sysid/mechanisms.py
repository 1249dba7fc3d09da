"""Small equations whose fits have closed forms."""

from scidyn.systems import Parameter, StateVariable, System


class Decay(System):
    states = (StateVariable("amount", "what is left", positive=True),)
    parameters = (Parameter("rate", 1.0, 0.0, 100.0, {"time": -1}, "k", "rate of decay"),)
    initial = (1.0,)
    equation = "a' = −k a"

    def vector_field(self, t, y, theta):
        return -theta[..., :1] * y


class TwoRates(Decay):
    """Only the sum of the rates can be known."""

    parameters = (
        Parameter("one", 0.5, 0.0, float("inf"), {"time": -1}),
        Parameter("two", 0.5, 0.0, float("inf"), {"time": -1}),
    )

    def vector_field(self, t, y, theta):
        return -(theta[..., :1] + theta[..., 1:]) * y
