/* A loss plugin in C: SPIN's logistic loss, by hand.
 *
 *     cc -shared -fPIC -O2 -I crates/sdk/include crates/host/tests/loss.c -o librandori_plugin_c_loss.so -lm
 *
 * With -DWRONG its slope has the wrong factor, and the host refuses it.
 */
#include <math.h>
#include <stdlib.h>

#include "randori_plugin.h"

typedef struct { double beta; } Spin;

static void *create(const RandoriValue *args, size_t n_args, RandoriStr config, RandoriSink sink) {
    (void)config;
    Spin *spin = malloc(sizeof *spin);
    if (!spin || n_args != 1) {
        RandoriStr why = RANDORI_STR("out of memory"), file = RANDORI_STR(__FILE__);
        sink.put(sink.ctx, why, file, __LINE__);
        free(spin);
        return NULL;
    }
    spin->beta = args[0].float_;
    return spin;
}

static void destroy(void *object) { free(object); }

/* l = ln(1 + exp(-beta * margin)), margin = the real response's log-ratio minus the generated one's. */
static uint32_t eval(const void *object, const RandoriRows *rows, const RandoriGrads *out, RandoriSink sink) {
    (void)sink;
    double beta = ((const Spin *)object)->beta, sum = 0;
    /* out->loss holds the margins first */
    for (size_t g = 0; g < rows->groups; g++) out->loss[g] = 0;
    for (size_t i = 0; i < rows->n; i++) {
        double sign = rows->role[i] == RANDORI_REAL ? 1 : -1;
        out->loss[rows->group[i]] += sign * (rows->logp[i] - rows->ref_logp[i]);
    }
    for (size_t i = 0; i < rows->n; i++) {
        double sign = rows->role[i] == RANDORI_REAL ? 1 : -1;
        double margin = out->loss[rows->group[i]];
        out->d_logp[i] = -sign * beta / (1 + exp(beta * margin));
#ifdef WRONG
        out->d_logp[i] *= 0.5;
#endif
    }
    for (size_t g = 0; g < rows->groups; g++) {
        double t = beta * out->loss[g];
        sum += out->loss[g];
        out->loss[g] = fmax(-t, 0) + log1p(exp(-fabs(t)));
    }
    RandoriStr name = RANDORI_STR("margin");
    out->metric(out->ctx, name, sum / (double)rows->groups);
    return 1;
}

static const RandoriLoss table = { sizeof(RandoriLoss), 1, eval, 0, 0 };

static const RandoriOpt options[] = {{
    RANDORI_STR("beta"),
    RANDORI_STR("How strongly the policy is held to its opponent."),
    { RANDORI_FLOAT, 0, 0.1, { NULL, 0 } },
    0.0, 100.0, NULL, 0,
}};

static const RandoriItem items[] = {{
    RANDORI_LOSS,
    RANDORI_STR("spin_in_c"),
    RANDORI_STR("SPIN's logistic loss, written in C."),
    options, 1, create, destroy, &table,
}};

const RandoriPlugin RANDORI_SYMBOL(randori_plugin_c_loss) = {
    sizeof(RandoriPlugin), sizeof(RandoriItem), sizeof(RandoriOpt),
    RANDORI_STR("randori-plugin-c-loss"),
    RANDORI_STR("1.0.0"),
    RANDORI_STR("A loss in C"),
    items, 1,
    RANDORI_STR(RANDORI_SDK_VERSION),
};
