"""Coefficients of the implicit, linearly implicit and additive Runge-Kutta methods: data only.

Every table is checked against its order conditions in the tests, to rounding.

References
----------
Kvaerno (2004), BIT 44, 489-502. Kennedy & Carpenter (2003), Appl. Numer. Math. 44, 139-181.
Steinebach (2023), BIT 63, 27. Shampine & Reichelt (1997), SIAM J. Sci. Comput. 18, 1-22.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KENCARP4", "KVAERNO3", "KVAERNO5", "RODAS5P", "AdditiveTableau", "EsdirkTableau", "RodasTableau"]

Row = tuple[float, ...]


@dataclass(frozen=True)
class EsdirkTableau:
    """A stiffly accurate Runge-Kutta method with an explicit first stage and one diagonal value.

    ``a[i]`` holds row ``i`` below the diagonal; the diagonal is ``gamma`` from the second stage on.
    ``predictor[i]`` combines the earlier stage slopes to the first guess of slope ``i``.
    ``dense[p]`` holds the weights of ``theta**(p + 1)``; None means a cubic Hermite polynomial.
    """

    name: str
    order: int
    error_order: int
    gamma: float
    c: Row
    a: tuple[Row, ...]
    error: Row
    predictor: tuple[Row, ...]
    dense: tuple[Row, ...] | None = None


@dataclass(frozen=True)
class AdditiveTableau:
    """An explicit and an ESDIRK method that share abscissae and weights (one term each)."""

    implicit: EsdirkTableau
    explicit: tuple[Row, ...]


@dataclass(frozen=True)
class RodasTableau:
    """A Rosenbrock method in the variables that need no product with the Jacobian.

    ``(I - h gamma J) u_i = h gamma f(t + c_i h, y + sum a_ij u_j) + gamma sum C_ij u_j + h^2 gamma d_i f_t``,
    ``y1 = y + sum b_i u_i``, error estimate ``u_s``. ``dense`` holds the rows of the interpolant.
    """

    name: str
    order: int
    error_order: int
    gamma: float
    c: Row
    d: Row
    a: tuple[Row, ...]
    coupling: tuple[Row, ...]
    dense: tuple[Row, ...]


def _lagrange(nodes: Row, at: float) -> Row:
    """Weights of the polynomial through values at ``nodes``, evaluated at ``at``."""
    weights = []
    for i, node in enumerate(nodes):
        weight = 1.0
        for j, other in enumerate(nodes):
            if j != i:
                weight *= (at - other) / (node - other)
        weights.append(weight)
    return tuple(weights)


def _kvaerno3() -> EsdirkTableau:
    g = 0.43586652150845899942  # root of 6 g^3 - 18 g^2 + 9 g - 1
    third = ((-4 * g * g + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g))
    weights = ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g * g + 6 * g - 1) / (6 * g - 3), g)
    lower = (*third, g, 0.0)
    return EsdirkTableau(
        name="kvaerno3",
        order=3,
        error_order=2,
        gamma=g,
        c=(0.0, 2 * g, 1.0, 1.0),
        a=((), (g,), third, weights[:3]),
        error=tuple(x - y for x, y in zip(weights, lower, strict=True)),
        predictor=((), (1.0,), _lagrange((0.0, 2 * g), 1.0), (0.0, 0.0, 1.0)),
    )


def _kvaerno5() -> EsdirkTableau:
    g = 0.26
    c = (0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0)
    sixth = (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676)
    weights = (
        *(0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046),
        *(0.62993304899016403, 0.06962479448202728, g),
    )
    lower = (*sixth, g, 0.0)
    return EsdirkTableau(
        name="kvaerno5",
        order=5,
        error_order=4,
        gamma=g,
        c=c,
        a=(
            (),
            (g,),
            (0.13, 0.84033320996790809),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
            sixth,
            weights[:6],
        ),
        error=tuple(x - y for x, y in zip(weights, lower, strict=True)),
        predictor=(
            (),
            (1.0,),
            _lagrange(c[:2], c[2]),
            *(_lagrange(c[:3], node) for node in c[3:6]),
            (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        ),
        # fourth order, slopes f(t, y) and f(t + h, y1) at the ends; least-squares solution of the conditions
        dense=(
            (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (
                *(-2.0720375887956806, 0.0, 0.8427243190616485, -0.6665857136422347),
                *(3.2569288143993465, -0.6050255205696848, -0.7560043104533958),
            ),
            (
                *(1.6904652246969718, 0.0, -1.9053249899848335, 1.1684263581516274),
                *(-3.9941254328380342, 1.4885502190674744, 1.552008620906794),
            ),
            (
                *(-0.4818301241248883, 0.0, 1.0076315829578002, -0.5430269117926034),
                *(1.3671296674288538, -0.8138999040157632, -0.5360043104533982),
            ),
        ),
    )


def _kencarp4() -> AdditiveTableau:
    g = 0.25
    c = (0.0, 0.5, 83 / 250, 31 / 50, 17 / 20, 1.0)
    weights = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, g)
    lower = (
        *(4586570599 / 29645900160, 0.0, 178811875 / 945068544),
        *(814220225 / 1159782912, -3700637 / 11593932, 61727 / 225920),
    )
    implicit = EsdirkTableau(
        name="kencarp4",
        order=4,
        error_order=3,
        gamma=g,
        c=c,
        a=(
            (),
            (g,),
            (8611 / 62500, -1743 / 31250),
            (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
            (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
            weights[:5],
        ),
        error=tuple(x - y for x, y in zip(weights, lower, strict=True)),
        predictor=(
            (),
            (1.0,),
            _lagrange(c[:2], c[2]),
            (*_lagrange(c[:2], c[3]), 0.0),
            (*_lagrange((c[0], c[3]), c[4])[:1], 0.0, 0.0, _lagrange((c[0], c[3]), c[4])[1]),
            (*_lagrange((c[0], c[4]), c[5])[:1], 0.0, 0.0, 0.0, _lagrange((c[0], c[4]), c[5])[1]),
        ),
    )
    explicit = (
        (),
        (0.5,),
        (13861 / 62500, 6889 / 62500),
        (
            *(-116923316275 / 2393684061468, -2731218467317 / 15368042101831),
            9408046702089 / 11113171139209,
        ),
        (
            *(-451086348788 / 2902428689909, -2682348792572 / 7519795681897),
            *(12662868775082 / 11960479115383, 3355817975965 / 11060851509271),
        ),
        (
            *(647845179188 / 3216320057751, 73281519250 / 8382639484533, 552539513391 / 3454668386233),
            *(3354512671639 / 8306763924573, 4040 / 17871),
        ),
    )
    return AdditiveTableau(implicit=implicit, explicit=explicit)


def _rodas5p() -> RodasTableau:
    g = 0.21193756319429014
    sixth = (
        *(-7.502846399306121, 2.561846144803919, -11.627539656261098),
        *(-0.18268767659942256, 0.030198172008377946),
    )
    return RodasTableau(
        name="rodas5p",
        order=5,
        error_order=4,
        gamma=g,
        c=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        d=(
            *(g, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734),
            *(2.325825639765069, 0.0, 0.0, 0.0),
        ),
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            sixth,
            (*sixth, 1.0),
            (*sixth, 1.0, 1.0),
        ),
        coupling=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (
                *(24.854864614690072, -3.0009227002832186, 47.4931110020768),
                *(5.5814197821558125, -0.6610691825249471),
            ),
            (
                *(30.91273214028599, -3.1208243349937974, 77.79954646070892),
                *(34.28646028294783, -19.097331116725623, -28.087943162872662),
            ),
            (
                *(37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047),
                *(-40.06618937091002, -54.66780262877968, -9.48861652309627),
            ),
        ),
        dense=(
            (
                *(25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204),
                *(0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493),
            ),
            (
                *(-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796),
                *(20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372),
            ),
            (
                *(11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643),
                *(-52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722),
            ),
        ),
    )


KVAERNO3 = _kvaerno3()
KVAERNO5 = _kvaerno5()
KENCARP4 = _kencarp4()
RODAS5P = _rodas5p()
