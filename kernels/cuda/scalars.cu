// Numbers that a captured step reads: those Python gives it for this run, and the factors of a
// matrix product that depend on them.
//
//     send_f64     to[k] = numbers.at[k]                       k < count
//     alpha_beta   to[0] = factor * rate[0], to[1] = beta      in double, then rounded; for each of
//                                                              `count` products
//     finite_f64   status[1] = the bits of x[0]                where x[0] is infinite or NaN
//
// NumPy twin: the factor of gpugrad.backend.twin.Program._gemm; for send, an assignment; isfinite.
//
// Layout  Numbers and Factors come by value, in the launch's own parameters, so that later ones
//         cannot overtake those of a run still in the queue. Larger counts take several launches.
//         rate and to lie in device memory; to is float where `single`, else double.
// Grid    one block of NUMBERS or FACTORS threads; one thread for finite_f64.
// Bytes   8 written a number; 8 read and 8 or 16 written a product; 8 read.

constexpr int NUMBERS = 64;
constexpr int FACTORS = 64;

struct Numbers {
    double at[NUMBERS];
};

extern "C" __global__ void __launch_bounds__(NUMBERS)
    send_f64(const Numbers numbers, double* to, index_t count) {
    const int k = threadIdx.x;
    if (k < count) {
        to[k] = numbers.at[k];
    }
}
GG_EXPORT(send_f64)

struct Factor {
    const double* rate;
    double factor, beta;
    void* to;
    long long single;
};

struct Factors {
    Factor at[FACTORS];
};

extern "C" __global__ void __launch_bounds__(FACTORS)
    alpha_beta(const Factors factors, index_t count) {
    const int k = threadIdx.x;
    if (k < count) {
        const Factor& f = factors.at[k];
        const double alpha = f.factor * f.rate[0];
        if (f.single) {
            float* to = static_cast<float*>(f.to);
            to[0] = float(alpha);
            to[1] = float(f.beta);
        } else {
            double* to = static_cast<double*>(f.to);
            to[0] = alpha;
            to[1] = f.beta;
        }
    }
}
GG_EXPORT(alpha_beta)

extern "C" __global__ void __launch_bounds__(1) finite_f64(const double* x, index_t* status) {
    if (x[0] - x[0] != 0) {
        status[1] = __double_as_longlong(x[0]);  // never 0
    }
}
GG_EXPORT(finite_f64)
