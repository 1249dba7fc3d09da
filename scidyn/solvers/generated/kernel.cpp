// Solves each sample, or all together, with embedded Runge-Kutta or Rosenbrock steps.
//
// The program is completed by the field's rate and the method's step, written by source.py. W samples are
// advanced at once, one in each lane of a vector; a lane whose sample has ended takes the next one.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#if W == 1
typedef REAL V;
typedef double T;
typedef int64_t M;
typedef int64_t TM;
#define AT(v, i) (v)
static inline V narrow(T x) { return (V)x; }
static inline T widen(V x) { return (T)x; }
static inline M narrow_mask(TM m) { return m; }
static inline TM wide_mask(M m) { return m; }
#define NOT(m) (!(m))
static inline TM whole(T x) { return (TM)x; }
static inline T real(TM x) { return (T)x; }
static inline bool any(TM m) { return m != 0; }
#else
typedef REAL V __attribute__((vector_size(W * sizeof(REAL))));
typedef double T __attribute__((vector_size(W * 8)));
typedef MASK M __attribute__((vector_size(W * sizeof(REAL))));
typedef int64_t TM __attribute__((vector_size(W * 8)));
#define AT(v, i) (v)[i]
static inline V narrow(T x) { return __builtin_convertvector(x, V); }
static inline T widen(V x) { return __builtin_convertvector(x, T); }
static inline M narrow_mask(TM m) { return __builtin_convertvector(m, M); }
static inline TM wide_mask(M m) { return __builtin_convertvector(m, TM); }
#define NOT(m) (~(m))
static inline bool any(TM m) {
    int64_t found = 0;
    for (int i = 0; i < W; ++i) found |= m[i];
    return found != 0;
}
static inline TM whole(T x) { return __builtin_convertvector(x, TM); }
static inline T real(TM x) { return __builtin_convertvector(x, T); }
#endif

// log2 by the series of artanh, exp2 by that of exp: to 1e-13, enough for a step size, and the same in every lane
static inline T log2_of(T x) {
    TM bits;
    std::memcpy(&bits, &x, sizeof(x));
    TM power = (bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffL) | 0x3ff0000000000000L;
    T m;
    std::memcpy(&m, &bits, sizeof(m));
    TM high = m > 1.4142135623730951;
    m = high ? m * 0.5 : m;
    power = high ? power + 1 : power;
    T s = (m - 1.0) / (m + 1.0), z = s * s, sum = z * 0.0 + 1.0 / 17;
    for (int k = 15; k > 0; k -= 2) sum = sum * z + 1.0 / k;
    return real(power) + 2.8853900817779268 * s * sum;
}
static inline T exp2_of(T x) {
    x = x > 1000.0 ? x * 0.0 + 1000.0 : x;
    x = x < -1000.0 ? x * 0.0 - 1000.0 : x;
    T n = (x + 6755399441055744.0) - 6755399441055744.0;
    T z = (x - n) * 0.6931471805599453, sum = z * 0.0 + 1.0;
    for (int k = 12; k > 0; --k) sum = sum * z / (double)k + 1.0;
    TM bits = (whole(n) + 1023) << 52;
    T scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return sum * scale;
}

static inline V all_of(REAL x) { V v = {}; return v + x; }
static inline T all_times(double x) { T v = {}; return v + x; }
static inline V v_max(V a, V b) { return ((a > b) | (a != a)) ? a : b; }
static inline V v_min(V a, V b) { return ((a < b) | (a != a)) ? a : b; }
static inline V v_abs(V a) { return a < 0 ? -a : a; }
static inline V v_sign(V a) { V zero = {}; return a > 0 ? zero + 1 : (a < 0 ? zero - 1 : a * 0); }
#define BY_LANE(name, function) \
    static inline V name(V a) { V r = a; for (int i = 0; i < W; ++i) AT(r, i) = function(AT(a, i)); return r; }
#define BY_LANES(name, function) \
    static inline V name(V a, V b) { \
        V r = a; for (int i = 0; i < W; ++i) AT(r, i) = function(AT(a, i), AT(b, i)); return r; }
BY_LANE(v_sqrt, std::sqrt) BY_LANE(v_tan, std::tan) BY_LANE(v_sinh, std::sinh) BY_LANE(v_floor, std::floor)
BY_LANE(v_cosh, std::cosh) BY_LANE(v_asin, std::asin) BY_LANE(v_acos, std::acos) BY_LANE(v_atan, std::atan)
BY_LANE(v_erf, std::erf) BY_LANE(v_log1p, std::log1p)
BY_LANES(v_pow, std::pow) BY_LANES(v_fmod, std::fmod) BY_LANES(v_atan2, std::atan2)

enum { RUNNING, SUCCESS, MAX_STEPS, STEP_UNDERFLOW, NON_FINITE_STATE, NON_FINITE_RATE, LINEAR_SOLVE_FAILED = 11 };

struct Work {
    V k[S][D];
#ifdef IMPLICIT
    V J[D][LOWER + UPPER + 1], slope[D], A[D][WIDTH], inverse[D];
    M swap[D][LOWER + 1];
#endif
};

// Elementary functions of all lanes at once, in double precision, to one or two units in the last place.

static inline T power_of_two(T n) {
    TM bits = (whole(n) + 1023) << 52;
    T scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return scale;
}

// exp(x) = 2^n (1 + p): n is returned, p is the series of exp(r) - 1 in the rest |r| <= ln(2) / 2
static inline T reduced(T x, T& p) {
    T n = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
    T r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    T sum = r * 0.0 + 1.0 / 6227020800.0;
    const double terms[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                            1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
    for (double term : terms) sum = sum * r + term;
    p = r + r * r * sum;
    return n;
}

static inline T t_clip(T x, double low, double high) {
    x = x < low ? all_times(low) : x;
    return x > high ? all_times(high) : x;
}

static inline V v_exp(V a) {
    T x = widen(a), p, inside = t_clip(x, -707.0, 709.0), n = reduced(inside, p), half = 0.5 * n;
    half = (half + 6755399441055744.0) - 6755399441055744.0;
    T y = (1.0 + p) * power_of_two(half) * power_of_two(n - half);
    y = x > 709.782712893384 ? all_times(INFINITY) : y;
    y = x < -745.2 ? all_times(0.0) : y;
    TM unusual = (x > 709.0) | (x < -707.0);
    if (any(unusual & (x > -745.2) & (x < 709.782712893384)))
        for (int i = 0; i < W; ++i)
            if (AT(unusual, i)) AT(y, i) = std::exp(AT(x, i));
    return narrow(x == x ? y : x);
}

static inline T expm1_of(T x) {
    T p, n = reduced(x, p), scale = power_of_two(n);
    return scale * p + (scale - 1.0);
}

static inline V v_expm1(V a) {
    T x = widen(a), y = expm1_of(t_clip(x, -50.0, 709.0));
    y = x > 709.0 ? all_times(INFINITY) : y;
    return narrow(x == x ? y : x);
}

static inline V v_tanh(V a) {
    T x = widen(a), e = expm1_of(2.0 * t_clip(x, -20.0, 20.0)), y = e / (e + 2.0);
    return narrow(x == x ? y : x);
}

static inline V v_log(V a) {
    T x = widen(a);
    if (any((x < 2.3e-308) | (x > 1.7e308) | (x != x))) {
        for (int i = 0; i < W; ++i) AT(x, i) = std::log(AT(x, i));
        return narrow(x);
    }
    TM bits;
    std::memcpy(&bits, &x, sizeof(x));
    TM exponent = (bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffL) | 0x3ff0000000000000L;
    T m;
    std::memcpy(&m, &bits, sizeof(m));
    TM high = m > 1.4142135623730951;
    m = high ? m * 0.5 : m;
    exponent = high ? exponent + 1 : exponent;
    T f = m - 1.0, s = f / (2.0 + f), z = s * s, sum = z * 0.0 + 2.0 / 23, n = real(exponent);
    for (int k = 21; k > 1; k -= 2) sum = sum * z + 2.0 / k;
    // log(1 + f) = f - s (f - z sum), the sum without its first term
    return narrow(n * 0.693147180369123816490 + (f - s * (f - z * sum) + n * 1.90821492927058770002e-10));
}

// sine of x, or of x + pi / 2: both series in the rest |r| <= pi / 4 of x - n pi / 2
static inline V sine(V a, int64_t quarter) {
    T x = widen(a);
    if (any((x > 1e5) | (x < -1e5) | (x != x))) {
        for (int i = 0; i < W; ++i) AT(x, i) = quarter ? std::cos(AT(x, i)) : std::sin(AT(x, i));
        return narrow(x);
    }
    T n = (x * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;
    T r = ((x - n * 1.5707963267341256) - n * 6.0771005063039660e-11) - n * 2.0222662487959506e-21;
    T z = r * r, odd = z * 0.0 - 7.647163731819816e-13, even = z * 0.0 + 4.779477332387385e-14;
    const double odds[] = {1.6059043836821613e-10,  -2.505210838544172e-08, 2.7557319223985893e-06,
                           -1.9841269841269841e-04, 8.333333333333333e-03,  -1.6666666666666666e-01};
    const double evens[] = {-1.1470745597729725e-11, 2.08767569878681e-09,    -2.755731922398589e-07,
                            2.48015873015873e-05,    -1.388888888888889e-03,  4.1666666666666664e-02};
    for (double term : odds) odd = odd * z + term;
    for (double term : evens) even = even * z + term;
    T sin_r = r + r * z * odd, cos_r = 1.0 - (0.5 * z - z * z * even);
    TM place = (whole(n) + quarter) & 3;
    T y = (place & 1) != 0 ? cos_r : sin_r;
    return narrow((place & 2) != 0 ? -y : y);
}
static inline V v_sin(V a) { return sine(a, 0); }
static inline V v_cos(V a) { return sine(a, 1); }

RATE_AND_STEP

static const double LARGE = 1e300, LEAST_LOG_RATIO = -13.287712379549449;  // log2(1e-4)

// arguments in the order of solve.py
struct Arguments {
    const REAL *y0, *own, *shared, *atol;
    const double* wanted;
    REAL *k1, *out, *final_y, *final_k, *previous;
    double *start, *end, *h, *final_t, *final_h, *last_size;
    int8_t* status;
    int32_t *accepted, *rejected;
    int64_t batch, count, stride, max_steps, keep, average;
    double rtol, tiny, power0, power1, power2, safety, low, high, order, first, dt_min, dt_max;
};

struct Records {
    std::vector<int32_t> sample;
    std::vector<double> data;  // end of the step, its size, the state before, the polynomial
};

// factor of the next step from log2 of this error ratio and of the last two
static inline T next_factor(const Arguments& a, T log_ratio, T before, T earlier, TM accepted) {
    T x = std::log2(a.safety) + a.power0 * log_ratio + a.power1 * before + a.power2 * earlier;
    T factor = exp2_of(x), one = all_times(1.0);
    T low = accepted ? one : all_times(a.low), high = accepted ? all_times(a.high) : all_times(a.safety);
    factor = factor < low ? low : factor;
    return factor > high ? high : factor;
}

static inline T mean_square(const Arguments& a, const V* y, const V* y1, const V* err) {
    V sum = {};
    for (int d = 0; d < D; ++d) {
        V scale = (REAL)a.rtol * v_max(v_abs(y[d]), v_abs(y1[d])) + a.atol[d];
        scale = scale < (REAL)a.tiny ? all_of((REAL)a.tiny) : scale;
        V ratio = err[d] / scale;
        sum += ratio * ratio;
    }
    T r2 = widen(sum * (REAL)(1.0 / D));
    return r2 < LARGE ? r2 : all_times(LARGE);
}

static inline T log_ratio_of(T r2) { return 0.5 * log2_of(r2 > 1e-300 ? r2 : all_times(1e-300)); }

static void write_row(const Arguments& a, const V* y, const V (*c)[D], int lane, double t, double h, int64_t sample,
                      int64_t& next, double reached) {
    const double* wanted = a.wanted + sample * a.stride;
    for (; next < a.count && wanted[next] <= reached; ++next) {
        REAL theta = (REAL)((wanted[next] - t) / h), size = (REAL)h;
        REAL* row = a.out + (sample * a.count + next) * D;
        for (int d = 0; d < D; ++d) {
            REAL sum = AT(c[P - 1][d], lane);
            for (int p = P - 2; p >= 0; --p) sum = sum * theta + AT(c[p][d], lane);
            row[d] = AT(y[d], lane) + size * theta * sum;
        }
    }
}

static void keep_row(const Arguments& a, Records* r, const V* y, const V (*c)[D], int lane, double t1, double h,
                     int64_t sample) {
    r->sample.push_back((int32_t)sample);
    r->data.push_back(t1);
    r->data.push_back(h);
    for (int d = 0; d < D; ++d) r->data.push_back(AT(y[d], lane));
    if (a.keep > 1)
        for (int p = 0; p < P; ++p)
            for (int d = 0; d < D; ++d) r->data.push_back(AT(c[p][d], lane));
}

static inline double span_slack(double start, double end) {
    return 100 * std::numeric_limits<double>::epsilon() * std::fmax(std::fabs(start), std::fabs(end));
}

// times at which rows begin and end, and reported states: that at the start, and NaN
static void begin_rows(const Arguments& a, int64_t rows) {
    for (int64_t b = 0; b < rows; ++b) {
        const double* wanted = a.wanted + b * a.stride;
        int64_t last = a.count - 1;
        while (last > 0 && !(wanted[last] == wanted[last])) --last;
        a.start[b] = wanted[0], a.end[b] = wanted[last];
    }
    const REAL none = std::numeric_limits<REAL>::quiet_NaN();
    for (int64_t b = 0; b < a.batch; ++b) {
        const double* wanted = a.wanted + b * a.stride;
        REAL* row = a.out + b * a.count * D;
        for (int64_t i = 0; i < a.count; ++i)
            for (int d = 0; d < D; ++d) row[i * D + d] = wanted[i] == wanted[0] ? a.y0[b * D + d] : none;
        for (int d = 0; d < D; ++d) a.final_y[b * D + d] = a.y0[b * D + d];
    }
}

// mean squares over their allowed error of y, of its rate, and of the change of the rate in a small step
static void first_norms(const Arguments& a, const double* h0, double* d0, double* d1, double* d2, bool together) {
    V y[D], k1[D], k2[D], own[OWN + 1];
    for (int64_t block = 0; block < a.batch; block += W) {
        T t = {}, size = {};
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = block + lane < a.batch ? block + lane : a.batch - 1, row = together ? 0 : b;
            for (int d = 0; d < D; ++d) AT(y[d], lane) = a.y0[b * D + d];
            for (int j = 0; j < OWN; ++j) AT(own[j], lane) = a.own[j * a.batch + b];
            AT(t, lane) = a.start[row];
            if (h0) AT(size, lane) = h0[row];
        }
        V sum0 = {}, sum1 = {};
        rate(narrow(t), y, a.shared, own, k1);
        if (h0) {
            V moved[D];
            for (int d = 0; d < D; ++d) moved[d] = y[d] + narrow(size) * k1[d];
            rate(narrow(t + size), moved, a.shared, own, k2);
        }
        for (int d = 0; d < D; ++d) {
            V scale = (REAL)a.rtol * v_abs(y[d]) + a.atol[d];
            scale = scale < (REAL)a.tiny ? all_of((REAL)a.tiny) : scale;
            const V first = h0 ? (k2[d] - k1[d]) / scale : y[d] / scale, second = k1[d] / scale;
            sum0 += first * first, sum1 += second * second;
        }
        for (int lane = 0; lane < W && block + lane < a.batch; ++lane) {
            const int64_t b = block + lane;
            if (h0) d2[b] = AT(sum0, lane) * (1.0 / D);
            else {
                d0[b] = AT(sum0, lane) * (1.0 / D), d1[b] = AT(sum1, lane) * (1.0 / D);
                for (int d = 0; d < D; ++d) a.final_k[b * D + d] = a.k1[b * D + d] = AT(k1[d], lane);
            }
        }
    }
}

static void join(const Arguments& a, std::vector<double>& each) {
    double worst = 0, sum = 0;
    for (double x : each) worst = x > worst || x != x ? x : worst, sum += x;
    each.assign(1, a.average ? sum / a.batch : worst);
}

// first step (E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, II.4) and status
static void begin_steps(const Arguments& a, bool together) {
    const int64_t rows = together ? 1 : a.batch;
    begin_rows(a, rows);
    std::vector<double> d0(a.batch), d1(a.batch), d2(a.batch), h0(rows);
    first_norms(a, nullptr, d0.data(), d1.data(), d2.data(), together);
    if (together) join(a, d0), join(a, d1);
    for (int64_t r = 0; r < rows; ++r) {
        d0[r] = std::sqrt(d0[r]), d1[r] = std::sqrt(d1[r]);
        const bool flat = d0[r] < 1e-5 || d1[r] < 1e-5;
        const double guess = flat ? 1e-6 : 0.01 * d0[r] / d1[r], span = a.end[r] - a.start[r];
        h0[r] = guess < span || guess != guess ? guess : span;
    }
    if (a.first <= 0) first_norms(a, h0.data(), d0.data(), d1.data(), d2.data(), together);
    if (together) join(a, d2);
    for (int64_t r = 0; r < rows; ++r) {
        const double tiny = std::numeric_limits<double>::min();
        const double change = std::sqrt(d2[r]) / (h0[r] > tiny ? h0[r] : tiny);
        const double largest = d1[r] > change || d1[r] != d1[r] ? d1[r] : change;
        const double h1 =
            largest <= 1e-15 ? std::fmax(h0[r] * 1e-3, 1e-6) : std::pow(0.01 / largest, 1.0 / a.order);
        const double guess = std::fmin(100 * h0[r], h1);
        double h = largest == largest && std::isfinite(guess) ? guess : h0[r];
        if (a.first > 0) h = a.first;
        a.final_h[r] = a.h[r] = h < a.dt_max ? h : a.dt_max;
        a.final_t[r] = a.start[r], a.last_size[r] = 0;
        a.accepted[r] = a.rejected[r] = 0;
        a.previous[r] = a.previous[rows + r] = 1;
        bool usable = true;
        for (int64_t i = r * D; i < (together ? a.batch : r + 1) * D; ++i) usable = usable && std::isfinite(a.k1[i]);
        a.status[r] = a.end[r] > a.start[r] ? (usable ? RUNNING : NON_FINITE_RATE) : SUCCESS;
    }
}

extern "C" void* solve_each(const Arguments* given) {
    const Arguments& a = *given;
    begin_steps(a, false);
    Records* records = a.keep ? new Records : nullptr;
    V y[D], k1[D], y1[D], err[D], c[P][D], own[OWN + 1];
    for (int d = 0; d < D; ++d) y[d] = k1[d] = all_of(0);
    for (int j = 0; j <= OWN; ++j) own[j] = all_of(0);
    T t = {}, h = {}, end = {}, slack = {}, before = {}, earlier = {}, due = {}, size = {};
    const T dt_max = all_times(a.dt_max), dt_min = all_times(a.dt_min);
    TM running = {}, accepted = {}, rejected = {};
    int64_t sample[W], next[W], coming = 0;
    Work w = {};

    auto load = [&](int lane) {
        AT(running, lane) = 0;
        AT(h, lane) = 0;
        sample[lane] = -1;
        for (; coming < a.batch; ++coming) {
            if (a.status[coming] != RUNNING) continue;
            const int64_t b = sample[lane] = coming++;
            for (int d = 0; d < D; ++d) AT(y[d], lane) = a.y0[b * D + d], AT(k1[d], lane) = a.k1[b * D + d];
            for (int j = 0; j < OWN; ++j) AT(own[j], lane) = a.own[j * a.batch + b];
            AT(t, lane) = a.start[b], AT(h, lane) = a.h[b], AT(end, lane) = a.end[b];
            AT(slack, lane) = span_slack(a.start[b], a.end[b]);
            AT(before, lane) = AT(earlier, lane) = AT(size, lane) = 0;
            AT(accepted, lane) = AT(rejected, lane) = 0;
            AT(running, lane) = -1;
            const double* wanted = a.wanted + b * a.stride;
            int64_t i = 0;
            while (i < a.count && wanted[i] <= a.start[b]) ++i;
            next[lane] = i;
            AT(due, lane) = i < a.count ? wanted[i] : INFINITY;
            return;
        }
    };
    auto unload = [&](int lane, int8_t status) {
        const int64_t b = sample[lane];
        a.status[b] = status;
        a.final_t[b] = AT(t, lane), a.final_h[b] = AT(h, lane), a.last_size[b] = AT(size, lane);
        for (int d = 0; d < D; ++d) a.final_y[b * D + d] = AT(y[d], lane), a.final_k[b * D + d] = AT(k1[d], lane);
        a.accepted[b] = (int32_t)AT(accepted, lane), a.rejected[b] = (int32_t)AT(rejected, lane);
        a.previous[b] = (REAL)std::exp2(AT(before, lane));
        a.previous[a.batch + b] = (REAL)std::exp2(AT(earlier, lane));
    };

    for (int lane = 0; lane < W; ++lane) load(lane);
    while (any(running)) {
        T zero = {}, remaining = end - t;
        TM last = running & (h >= remaining - slack), failed = {};
        T trial = running ? (last ? remaining : h) : zero;
        step(t, trial, y, k1, a.shared, own, w, y1, err, failed);
        T r2 = mean_square(a, y, y1, err);
        TM accept = running & (r2 <= 1.0) & NOT(failed), reject = running & NOT(accept);
        T log_ratio = log_ratio_of(r2);
        T factor = next_factor(a, log_ratio, before, earlier, accept);
        factor = failed ? all_times(0.25) : factor;
        T proposal = trial * factor, reached = last ? end : t + trial;
        proposal = proposal > dt_max ? dt_max : proposal;
        TM wants = accept & (due <= reached);
        if (a.keep || any(wants)) {
            if (a.keep > 1 || any(wants)) polynomial(w, y, y1, trial, c);
            for (int lane = 0; lane < W; ++lane) {
                if (!AT(accept, lane)) continue;
                double t0 = AT(t, lane), t1 = AT(reached, lane), h1 = AT(trial, lane);
                if (AT(wants, lane)) {
                    const int64_t b = sample[lane];
                    write_row(a, y, c, lane, t0, h1, b, next[lane], t1);
                    AT(due, lane) = next[lane] < a.count ? a.wanted[b * a.stride + next[lane]] : INFINITY;
                }
                if (a.keep) keep_row(a, records, y, c, lane, t1, h1, sample[lane]);
            }
        }
        T t_size = t < 0 ? -t : t, end_size = end < 0 ? -end : end;
        end_size = 1e-15 * end_size;
        T smallest = 16.0 * std::numeric_limits<double>::epsilon() * (t_size > end_size ? t_size : end_size);
        smallest = smallest > dt_min ? smallest : dt_min;
        TM lost = reject & (proposal <= smallest);
        TM one = {};
        one += 1;
        accepted = accept ? accepted + one : accepted;
        rejected = reject ? rejected + one : rejected;
        TM over = running & (accepted + rejected >= a.max_steps);
        TM done = (accept & last) | lost | over;
        h = running ? proposal : h;
        t = accept ? reached : t;
        size = accept ? trial : size;
        earlier = accept ? before : earlier;
        before = accept ? (log_ratio > LEAST_LOG_RATIO ? log_ratio : all_times(LEAST_LOG_RATIO)) : before;
        const M moved = narrow_mask(accept);
        for (int d = 0; d < D; ++d) {
            y[d] = moved ? y1[d] : y[d];
            k1[d] = moved ? w.k[S - 1][d] : k1[d];
        }
        if (!any(done)) continue;
        for (int lane = 0; lane < W; ++lane) {
            if (!AT(done, lane)) continue;
            int8_t code = MAX_STEPS;
            if (AT(accept, lane) && AT(last, lane)) code = SUCCESS;
            else if (AT(lost, lane))
                code = AT(failed, lane) ? LINEAR_SOLVE_FAILED : AT(r2, lane) < LARGE ? STEP_UNDERFLOW : NON_FINITE_STATE;
            unload(lane, code);
            load(lane);
        }
    }
    return records;
}

extern "C" void* solve_together(const Arguments* given) {
    const Arguments& a = *given;
    begin_steps(a, true);
    Records* records = a.keep ? new Records : nullptr;
    if (*a.status != RUNNING) return records;
    const int64_t blocks = (a.batch + W - 1) / W;
    typedef V Row[D];
    Row* memory = (Row*)::operator new((4 + P) * blocks * sizeof(Row), std::align_val_t(64));
    V* own = (V*)::operator new(blocks * (OWN + 1) * sizeof(V), std::align_val_t(64));
    Row *y = memory, *k1 = y + blocks, *y1 = k1 + blocks, *k2 = y1 + blocks, *c = k2 + blocks;
    for (int64_t block = 0; block < blocks; ++block)
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = block * W + lane < a.batch ? block * W + lane : a.batch - 1;
            for (int d = 0; d < D; ++d) {
                AT(y[block][d], lane) = a.y0[b * D + d];
                AT(k1[block][d], lane) = a.k1[b * D + d];
            }
            for (int j = 0; j < OWN; ++j) AT(own[block * (OWN + 1) + j], lane) = a.own[j * a.batch + b];
        }
    double t = *a.start, h = *a.h, before = 0, earlier = 0, size = 0;
    const double end = *a.end, slack = span_slack(t, end);
    int64_t next = 0, accepted = 0, rejected = 0;
    while (next < a.count && a.wanted[next] <= t) ++next;
    int8_t status = RUNNING;
    Work w = {};
    while (status == RUNNING) {
        const double remaining = end - t;
        const bool last = h >= remaining - slack;
        const double trial = last ? remaining : h, reached = last ? end : t + trial;
        const bool wants = next < a.count && a.wanted[next] <= reached;
        const T t_all = all_times(t), h_all = all_times(trial);
        double worst = 0, sum = 0;
        bool unsolved = false;
        for (int64_t block = 0; block < blocks; ++block) {
            V err[D];
            TM failed = {};
            step(t_all, h_all, y[block], k1[block], a.shared, own + block * (OWN + 1), w, y1[block], err, failed);
            if (wants || a.keep > 1) polynomial(w, y[block], y1[block], h_all, c + block * P);
            for (int d = 0; d < D; ++d) k2[block][d] = w.k[S - 1][d];
            const T r2 = mean_square(a, y[block], y1[block], err);
            for (int lane = 0; lane < W && block * W + lane < a.batch; ++lane) {
                if (AT(r2, lane) > worst) worst = AT(r2, lane);
                sum += AT(r2, lane);
            }
            unsolved |= any(failed);
        }
        double r2 = a.average ? sum / a.batch : worst;
        r2 = r2 < LARGE ? r2 : LARGE;
        const bool accept = r2 <= 1.0 && !unsolved;
        const double log_ratio = 0.5 * std::log2(r2 > 1e-300 ? r2 : 1e-300);
        double factor =
            std::exp2(std::log2(a.safety) + a.power0 * log_ratio + a.power1 * before + a.power2 * earlier);
        factor = accept ? (factor < 1 ? 1 : factor > a.high ? a.high : factor)
                        : (factor < a.low ? a.low : factor > a.safety ? a.safety : factor);
        if (unsolved) factor = 0.25;
        double proposal = trial * factor;
        if (proposal > a.dt_max) proposal = a.dt_max;
        if (accept) {
            const int64_t first = next;
            for (int64_t b = 0; wants && b < a.batch; ++b) {
                next = first;
                write_row(a, y[b / W], c + b / W * P, b % W, t, trial, b, next, reached);
            }
            for (int64_t b = 0; a.keep && b < a.batch; ++b)
                keep_row(a, records, y[b / W], c + b / W * P, b % W, reached, trial, b);
            std::swap(y, y1);
            std::swap(k1, k2);
            earlier = before;
            before = log_ratio > LEAST_LOG_RATIO ? log_ratio : LEAST_LOG_RATIO;
            t = reached, size = trial, ++accepted;
        } else
            ++rejected;
        h = proposal;
        double smallest = 16 * std::numeric_limits<double>::epsilon() * std::fmax(std::fabs(t), 1e-15 * std::fabs(end));
        if (accept && last) status = SUCCESS;
        else if (!accept && proposal <= std::fmax(smallest, a.dt_min))
            status = unsolved ? LINEAR_SOLVE_FAILED : r2 < LARGE ? STEP_UNDERFLOW : NON_FINITE_STATE;
        else if (accepted + rejected >= a.max_steps) status = MAX_STEPS;
    }
    for (int64_t b = 0; b < a.batch; ++b)
        for (int d = 0; d < D; ++d) {
            a.final_y[b * D + d] = AT(y[b / W][d], b % W);
            a.final_k[b * D + d] = AT(k1[b / W][d], b % W);
        }
    *a.status = status, *a.accepted = (int32_t)accepted, *a.rejected = (int32_t)rejected;
    *a.final_t = t, *a.final_h = h, *a.last_size = size;
    a.previous[0] = (REAL)std::exp2(before), a.previous[1] = (REAL)std::exp2(earlier);
    ::operator delete(memory, std::align_val_t(64));
    ::operator delete(own, std::align_val_t(64));
    return records;
}

// copy the records to arrays (N + 1, rows), (N, rows), (N, batch, D) and (N, P, batch, D), and free them
extern "C" void unpack(void* given, const Arguments* arguments, int64_t rows, double* times, double* size, REAL* states,
                       REAL* coef) {
    Records* r = (Records*)given;
    const Arguments& a = *arguments;
    const int64_t width = 2 + D + (a.keep > 1 ? P * D : 0);
    std::vector<int64_t> position(a.batch, 0);
    for (size_t i = 0; i < r->sample.size(); ++i) {
        const int64_t b = r->sample[i], n = position[b]++;
        const double* x = r->data.data() + i * width;
        if (b < rows) times[(n + 1) * rows + b] = x[0], size[n * rows + b] = x[1];
        for (int d = 0; d < D; ++d) states[(n * a.batch + b) * D + d] = (REAL)x[2 + d];
        if (a.keep > 1)
            for (int p = 0; p < P; ++p)
                for (int d = 0; d < D; ++d) coef[((n * P + p) * a.batch + b) * D + d] = (REAL)x[2 + D + p * D + d];
    }
    delete r;
}
