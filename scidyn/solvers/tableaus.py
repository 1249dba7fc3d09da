"""Coefficients of the Runge–Kutta methods, and nothing else.

Every method is written so that its last stage is evaluated at the end of the step, at the new
state: the next step starts from it. ``dense[i][p]`` is the coefficient of ``θ^(p+1)`` in the
weight ``b_i(θ)`` of the continuous extension ``y(t + θh) = y + h Σ_i b_i(θ) k_i``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METHODS", "Tableau"]

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau with an error estimate and a continuous extension.

    Attributes
    ----------
    name : str
        What ``method=`` calls it.
    order : int
        Order of the advancing solution.
    c : tuple of float
        Nodes.
    a : tuple of tuple of float
        Stage weights; row i has i entries. The last row holds the weights of the step.
    error : tuple of float, or None
        Weights of the error estimate; None for a method that takes fixed steps only.
    error_order : int
        Power of the step size in the error estimate.
    dense : tuple of tuple of float
        Weights of the continuous extension.
    dense_order : int
        Order of the continuous extension.
    reference : str
        Where the coefficients come from.
    second_error : tuple of float, or None
        Weights of a second estimate of lower order. With it the error is, entry by entry,
        ``e² / sqrt(e² + 0.01 e₂²)``.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    error: Row | None
    error_order: int
    dense: tuple[Row, ...]
    dense_order: int
    reference: str
    second_error: Row | None = None

    @property
    def stages(self) -> int:
        """Evaluations of the vector field in a step, with the one that the next step reuses."""
        return len(self.c)

    @property
    def weights(self) -> Row:
        """Weights of the step; zero for the last stage."""
        return (*self.a[-1], 0.0)


def _hermite(weights: Row) -> tuple[Row, ...]:
    """Continuous extension of a method with these weights: the cubic through y, k_1, y1 and the last rate."""
    last = len(weights) - 1
    rows = []
    for i, b in enumerate(weights):
        first, end = float(i == 0), float(i == last)
        rows.append((first, 3.0 * b - 2.0 * first - end, -2.0 * b + first + end))
    return tuple(rows)


EULER = Tableau(
    name="euler",
    order=1,
    c=(0.0, 1.0),
    a=((), (1.0,)),
    error=None,
    error_order=1,
    dense=_hermite((1.0, 0.0)),
    dense_order=1,
    reference="L. Euler, Institutiones calculi integralis I, 1768",
)

MIDPOINT = Tableau(
    name="midpoint",
    order=2,
    c=(0.0, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1.0)),
    error=(-1.0, 1.0, 0.0),
    error_order=2,
    dense=_hermite((0.0, 1.0, 0.0)),
    dense_order=2,
    reference="C. Runge, Math. Ann. 46, 167–178, 1895; error against Euler's method",
)

HEUN = Tableau(
    name="heun",
    order=2,
    c=(0.0, 1.0, 1.0),
    a=((), (1.0,), (1 / 2, 1 / 2)),
    error=(-1 / 2, 1 / 2, 0.0),
    error_order=2,
    dense=_hermite((1 / 2, 1 / 2, 0.0)),
    dense_order=2,
    reference="K. Heun, Z. Math. Phys. 45, 23–38, 1900; error against Euler's method",
)

RALSTON = Tableau(
    name="ralston",
    order=2,
    c=(0.0, 2 / 3, 1.0),
    a=((), (2 / 3,), (1 / 4, 3 / 4)),
    error=(-3 / 4, 3 / 4, 0.0),
    error_order=2,
    dense=_hermite((1 / 4, 3 / 4, 0.0)),
    dense_order=2,
    reference="A. Ralston, Math. Comput. 16, 431–437, 1962; error against Euler's method",
)

BOSH3 = Tableau(
    name="bosh3",
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    error_order=3,
    dense=_hermite((2 / 9, 1 / 3, 4 / 9, 0.0)),
    dense_order=3,
    reference="P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2, 321–325, 1989",
)

SSP33 = Tableau(
    name="ssp33",
    order=3,
    c=(0.0, 1.0, 1 / 2, 1.0),
    a=((), (1.0,), (1 / 4, 1 / 4), (1 / 6, 1 / 6, 2 / 3)),
    error=(-1 / 3, -1 / 3, 2 / 3, 0.0),
    error_order=3,
    dense=_hermite((1 / 6, 1 / 6, 2 / 3, 0.0)),
    dense_order=3,
    reference="C.-W. Shu, S. Osher, J. Comput. Phys. 77, 439–471, 1988; error against Heun's method",
)

TSIT5 = Tableau(
    name="tsit5",
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356988, 0.3354806554923570),
        (2.897153057105493, -6.359448489975075, 4.362295432869582),
        (5.325864828439257, -11.74888356406283, 7.495539342889836, -0.09249506636175525),
        (
            5.861455442946420,
            -12.92096931784711,
            8.159367898576159,
            -0.07158497328140100,
            -0.02826905039406838,
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    error=(
        0.0017800110522257773,
        0.0008164344596567463,
        -0.007880878010261994,
        0.1447110071732629,
        -0.5823571654525552,
        0.4580821059291869,
        -1.0 / 66.0,
    ),
    error_order=5,
    dense=(
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.1317, -0.2234, 0.1017),
        (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
    dense_order=4,
    reference="C. Tsitouras, Computers & Mathematics with Applications 62, 770–775, 2011",
)

DOPRI5 = Tableau(
    name="dopri5",
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40),
    error_order=5,
    dense=(
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (
            0.0,
            -1754552775 / 470086768,
            14199869525 / 1410260304,
            -10690763975 / 1880347072,
        ),
        (
            0.0,
            127303824393 / 49829197408,
            -318862633887 / 49829197408,
            701980252875 / 199316789632,
        ),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    dense_order=4,
    reference="J. R. Dormand and P. J. Prince, J. Comput. Appl. Math. 6, 19–26, 1980; L. F. Shampine, "
    "Math. Comput. 46, 135–150, 1986 (continuous extension)",
)

RK4 = Tableau(
    name="rk4",
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    error=None,
    error_order=4,
    dense=_hermite((1 / 6, 1 / 3, 1 / 3, 1 / 6, 0.0)),
    dense_order=3,
    reference="W. Kutta, Z. Math. Phys. 46, 435–453, 1901",
)

METHODS: dict[str, Tableau] = {m.name: m for m in (EULER, MIDPOINT, HEUN, RALSTON, BOSH3, SSP33, RK4, TSIT5, DOPRI5)}
