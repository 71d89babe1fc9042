/* Randori's plugin interface in C.
 *
 * Generated from crates/sdk/src/abi.rs; do not edit. To write it anew:
 *     RANDORI_WRITE_HEADER=1 cargo test -p randori-sdk --test abi
 *
 * A plugin exports one constant, named after its library: librandori_plugin_mine.so has
 *     const RandoriPlugin RANDORI_SYMBOL(randori_plugin_mine) = { ... };
 *
 * Rules, for as long as `MAJOR` stays 1:
 * - a struct starts with its size in bytes (an item's and an option's are in `Plugin`) and grows
 *   only at its end, by multiples of 8 bytes, without padding. Fields that a shorter one lacks are
 *   0, the behaviour before them; bytes of a longer one that its reader does not know must be 0.
 *   Else it is refused, as is one that is shorter than its first version;
 * - so a field that came later is 0 unless it is wanted: a plugin sets it to ask for something; a
 *   host sets one of a struct that it fills only if the plugin's table asked for it;
 * - a field that came later says so, and what 0 means, unless 0 in a field before it makes that
 *   unread;
 * - only `RandoriOps` may be longer and not 0: it grows by functions, each asked for by a
 *   call after a look at `size`. `Str`, `Sink` and `Value` have no size and never change;
 * - numbers of kinds and ops are never reused; a host skips items of unknown `Item.kind`;
 * - text is UTF-8 with a length and lives as long as the call (in descriptors: for ever);
 * - no unwinding crosses: both sides catch their panics, report them to a `Sink` or
 *   `Ops.fail` and return `0` or `NULL`;
 * - a plugin's functions may be called from any thread, on one object also from several at once;
 *   only a sampler's state is used by one thread at a time.
 */
#ifndef RANDORI_PLUGIN_H
#define RANDORI_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The name of a plugin's exported constant; `krate` is the library's name without `lib` and ending. */
#define RANDORI_SYMBOL(krate) randori_plugin_v1_##krate

/* Version of the SDK that this header is from: a plugin's `sdk`. */
#define RANDORI_SDK_VERSION "0.1.0"

/* Text from a literal. */
#define RANDORI_STR(literal) { (const uint8_t *)(literal), sizeof(literal) - 1 }

/* Major version; it is part of the exported constant's name, `randori_plugin_v1_<crate name>`. */
#define RANDORI_MAJOR 1

/* UTF-8 text; not terminated. */
typedef struct RandoriStr {
    /* First byte; anything when `len` is 0. */
    const uint8_t *ptr;
    /* Bytes. */
    size_t len;
} RandoriStr;

/* A value in the host, valid during one call; 0 after a failure: every op on 0 returns 0. */
typedef uint32_t RandoriTensor;

/* The host's side of one call; opaque. */
typedef void *RandoriGraph;

/* Where a failing call reports its error, once. */
typedef struct RandoriSink {
    /* For `put`. */
    void *ctx;
    /* Takes one sentence and the plugin's source line (`file` empty: unknown). */
    void (*put)(void *ctx, RandoriStr message, RandoriStr file, uint32_t line);
} RandoriSink;

/* Rotary embedding of the first 2·n features of every head. */
typedef struct RandoriRope {
    /* Bytes of this struct. */
    size_t size;
    /* 0: pairs are (i, i + n); 1: pairs are (2i, 2i + 1). */
    uint32_t interleaved;
    /* Factor on cosine and sine. */
    float mscale;
    /* Radians per position of each pair. */
    const float *inv_freq;
    /* Number of pairs. */
    size_t n;
    /* Tokens that a sequence may have before it is long; 0: lengths do not matter. Came later. */
    size_t long_after;
    /*
     * Radians per position of each pair, in long sequences at all positions; NULL where
     * `long_after` is set: long sequences are refused. Came later.
     */
    const float *long_inv_freq;
    /* Results are times 1 + growth·ln(1 + floor(position / growth_every)); 0: not. Came later. */
    double growth;
    /* Positions from one step of it to the next; read where `growth` is not 0. Came later. */
    size_t growth_every;
} RandoriRope;

/* Causal attention's options. */
typedef struct RandoriAttn {
    /* Bytes of this struct. */
    size_t size;
    /* Keys at positions `i - window < j <= i` are seen; 0: all before. */
    size_t window;
    /* Factor on q·k; 0: 1/sqrt(head_dim). */
    float scale;
    /* cap·tanh(score/cap); 0: none. */
    float softcap;
    /*
     * A parameter (`Ops.param`) of (heads): in the soft-max of every query its head has one
     * logit more, of the value 0; 0: none. Came later.
     */
    RandoriTensor sinks;
    /*
     * Positions of a chunk, counted from 0 on: a query sees keys of its own chunk alone; 0: there
     * are no chunks. Came later.
     */
    uint32_t chunk;
} RandoriAttn;

/* Routing options of a mixture of experts. */
typedef struct RandoriRoute {
    /* Bytes of this struct. */
    size_t size;
    /* Experts per token. */
    size_t top_k;
    /* 1: sigmoid scores; 0: soft-max. */
    uint32_t sigmoid;
    /* 1: chosen weights are scaled to sum to one. */
    uint32_t normalise;
    /* Factor on the chosen weights. */
    float scale;
    /* Not read: older plugins have anything here. */
    uint32_t unused;
    /*
     * Of trailing shape (experts): added to the scores where experts are chosen, not where they
     * are weighted, without gradient; 0: none. Came later.
     */
    RandoriTensor bias;
    /*
     * Groups, equal runs of experts, of which the best ones' experts alone may be chosen; 0: no
     * groups. Came later.
     */
    uint32_t groups;
    /* Groups that may be chosen from. Came later. */
    uint32_t top_groups;
    /* A group's score is the sum of so many of its best experts'. Came later. */
    uint32_t group_best;
} RandoriRoute;

/* Takes one text. */
typedef void (*RandoriPut)(void *ctx, RandoriStr text);

/* Runs one expert on its rows: (rows, width) -> (rows, width). */
typedef RandoriTensor (*RandoriExpert)(void *user, RandoriGraph g, size_t expert, RandoriTensor x);

/* `Ops.unary`: x·sigmoid(x). */
#define RANDORI_SILU 1

/* `Ops.unary`: exact (erf) GELU. */
#define RANDORI_GELU 2

/* `Ops.unary`: GELU's tanh approximation. */
#define RANDORI_GELU_TANH 3

/* `Ops.unary`: tanh x. */
#define RANDORI_TANH 4

/* `Ops.unary`: 1/(1 + exp(-x)). */
#define RANDORI_SIGMOID 5

/* `Ops.unary`: max(0, x). */
#define RANDORI_RELU 6

/* `Ops.unary`: exp x. */
#define RANDORI_EXP 7

/* `Ops.unary`: soft-max over the last axis. */
#define RANDORI_SOFTMAX 8

/* `Ops.unary`: ln(1 + exp x). */
#define RANDORI_SOFTPLUS 9

/* `Ops.binary`: a + b. */
#define RANDORI_ADD 1

/* `Ops.binary`: a - b. */
#define RANDORI_SUB 2

/* `Ops.binary`: a·b. */
#define RANDORI_MUL 3

/* `Ops.binary`: a/b. */
#define RANDORI_DIV 4

/*
 * The host's ops for architectures. Shapes are (tokens, trailing axes...); names are checkpoint
 * names without `.weight`. A failing op returns 0; the host records the first error.
 */
typedef struct RandoriOps {
    /* Bytes of this table in the host: an op at or beyond it does not exist there. */
    size_t size;
    /*
     * Reports the plugin's error or, with an empty message, the source line of the op that has
     * just returned 0. Only the first of each counts.
     */
    void (*fail)(RandoriGraph g, RandoriStr message, RandoriStr file, uint32_t line);
    /* Rows of `name.weight` (vocab, width) -> (tokens, width). */
    RandoriTensor (*embed)(RandoriGraph g, RandoriStr name, RandoriTensor ids, size_t vocab, size_t width);
    /* x·Wᵀ, with `bias` 1 also + `name.bias`: (tokens, in) -> (tokens, out). */
    RandoriTensor (*linear)(RandoriGraph g, RandoriStr name, RandoriTensor x, size_t out, uint32_t bias);
    /* x / rms(x) · (plus + w) over the last axis; with an empty name x / rms(x), without a weight. */
    RandoriTensor (*rms_norm)(RandoriGraph g, RandoriStr name, RandoriTensor x, double eps, float plus);
    /* (x - mean) / std · w, with `bias` 1 also + `name.bias`, over the last axis. */
    RandoriTensor (*layer_norm)(RandoriGraph g, RandoriStr name, RandoriTensor x, double eps, uint32_t bias);
    /* Rotary embedding of (tokens, heads, head_dim) by each token's position. */
    RandoriTensor (*rope)(RandoriGraph g, RandoriTensor x, const RandoriRope *rope);
    /* q (tokens, heads, d), k (..., kv_heads, d), v (..., kv_heads, e) -> (tokens, heads, e). */
    RandoriTensor (*attention)(RandoriGraph g, RandoriTensor q, RandoriTensor k, RandoriTensor v, const RandoriAttn *of);
    /* Calls `expert` with the rows of `x` of each expert that `router` (tokens, experts) chooses. */
    RandoriTensor (*moe)(RandoriGraph g, RandoriTensor router, RandoriTensor x, const RandoriRoute *route, RandoriExpert expert, void *user);
    /* Element-wise; `op` is one of `SILU`... */
    RandoriTensor (*unary)(RandoriGraph g, uint32_t op, RandoriTensor x);
    /* Element-wise, `b` broadcast; `op` is one of `ADD`... */
    RandoriTensor (*binary)(RandoriGraph g, uint32_t op, RandoriTensor a, RandoriTensor b);
    /* x·mul + add. */
    RandoriTensor (*affine)(RandoriGraph g, RandoriTensor x, double mul, double add);
    /* (..., n·d) -> (..., n, d). */
    RandoriTensor (*unflatten)(RandoriGraph g, RandoriTensor x, size_t n);
    /* (..., n, d) -> (..., n·d). */
    RandoriTensor (*flatten)(RandoriGraph g, RandoriTensor x);
    /* start..start+len of the last axis. */
    RandoriTensor (*narrow)(RandoriGraph g, RandoriTensor x, size_t start, size_t len);
    /* Concatenation along the last axis. */
    RandoriTensor (*concat)(RandoriGraph g, const RandoriTensor *xs, size_t n);
    /* Causal depthwise convolution with `name.weight` (channels, 1, n); `bias` as in `linear`. */
    RandoriTensor (*conv)(RandoriGraph g, RandoriStr name, RandoriTensor x, size_t n, uint32_t bias);
    /*
     * Gated delta rule of five: q and k (tokens, key heads, dk), v (tokens, heads, dv), write
     * strengths and log-decays (tokens, heads) -> (tokens, heads, dv).
     */
    RandoriTensor (*delta_rule)(RandoriGraph g, const RandoriTensor *inputs);
    /*
     * The parameter of this full name and shape, without a token axis: for `b` of `binary`, the
     * functions of one value, and options that ask for a parameter.
     */
    RandoriTensor (*param)(RandoriGraph g, RandoriStr name, const size_t *shape, size_t n);
    /* x itself, which later blocks find by `name`; the embedding or one block carries a name. */
    RandoriTensor (*carry)(RandoriGraph g, RandoriStr name, RandoriTensor x);
    /* What the embedding or an earlier block carries by `name`. */
    RandoriTensor (*carried)(RandoriGraph g, RandoriStr name);
} RandoriOps;

/* An architecture's functions; `object` is what `Item.create` made. */
typedef struct RandoriArch {
    /* Bytes of this table. */
    size_t size;
    /* Number of blocks; 0 after a failure. */
    size_t (*layers)(const void *object, RandoriSink sink);
    /* Token ids -> (tokens, width). */
    RandoriTensor (*embed)(const void *object, const RandoriOps *ops, RandoriGraph g, RandoriTensor ids);
    /* One block: (tokens, width) -> (tokens, width). */
    RandoriTensor (*block)(const void *object, const RandoriOps *ops, RandoriGraph g, size_t layer, RandoriTensor x);
    /* Final norm and projection: (rows, width) -> (rows, vocab). */
    RandoriTensor (*head)(const void *object, const RandoriOps *ops, RandoriGraph g, RandoriTensor x);
    /* Gives, as JSON, what the family is called elsewhere (the SDK's `Dialect`). Came later. */
    void (*dialect)(void *ctx, RandoriPut put);
} RandoriArch;

/* `Rows.role`: the human response. */
#define RANDORI_REAL 0

/* `Rows.role`: the opponent's response. */
#define RANDORI_GENERATED 1

/* The log-probs of a batch of groups (pairs). Arrays have `n` entries. */
typedef struct RandoriRows {
    /* Bytes of this struct. */
    size_t size;
    /* Number of rows (responses). */
    size_t n;
    /* Number of groups. */
    size_t groups;
    /* Group of each row. */
    const uint32_t *group;
    /* `REAL` or `GENERATED`. */
    const uint32_t *role;
    /* Summed response log-prob under the policy. */
    const double *logp;
    /* Summed response log-prob under the opponent. */
    const double *ref_logp;
    /* Number of response tokens. */
    const uint32_t *len;
    /* External rewards; NULL unless every pair of the training has them. */
    const double *reward;
    /* Fraction of the training's steps that are done, 0..1. */
    double progress;
} RandoriRows;

/* A loss's outputs. */
typedef struct RandoriGrads {
    /* Bytes of this struct. */
    size_t size;
    /* One value per group. */
    double *loss;
    /* One slope per row, of the groups' summed loss to the row's `logp`. */
    double *d_logp;
    /* Takes a named value to report (the batch's mean). */
    void (*metric)(void *ctx, RandoriStr name, double value);
    /* For `metric`. */
    void *ctx;
} RandoriGrads;

/* A loss's functions. */
typedef struct RandoriLoss {
    /* Bytes of this table. */
    size_t size;
    /* 1: reads `ref_logp`. */
    uint32_t needs_ref;
    /* Writes values and slopes of a batch; 1, or 0 after an error to the sink. */
    uint32_t (*eval)(const void *object, const RandoriRows *rows, const RandoriGrads *out, RandoriSink sink);
    /* 1: a pair's loss depends on the step's others, which `eval` then gets at once. Came later. */
    uint32_t coupled;
    /* 1: reads `reward`, which then is never NULL. Came later. */
    uint32_t needs_reward;
} RandoriLoss;

/* One row of logits to be reshaped in place; -inf removes a token. */
typedef struct RandoriCandidates {
    /* Bytes of this struct. */
    size_t size;
    /* How many. */
    size_t n;
    /* Their token ids; NULL: 0..n. */
    const uint32_t *ids;
    /* Their logits. */
    float *logits;
} RandoriCandidates;

/* One step of a sequence, as a sampler sees it. */
typedef struct RandoriStep {
    /* Bytes of this struct. */
    size_t size;
    /* Prompt and everything generated so far. */
    const uint32_t *tokens;
    /* Number of tokens. */
    size_t n;
    /* Number of the prompt's tokens. */
    size_t prompt;
    /* The next uniform number in [0, 1) of this sequence and position. */
    double (*uniform)(void *ctx);
    /* For `uniform`. */
    void *ctx;
} RandoriStep;

/* A sampler's functions. */
typedef struct RandoriSampler {
    /* Bytes of this table. */
    size_t size;
    /* A new sequence's state; NULL after an error to the sink. */
    void *(*begin)(const void *object, RandoriSink sink);
    /* Reshapes one row; 1, or 0 after an error to the sink. */
    uint32_t (*apply)(const void *object, void *state, const RandoriStep *step, const RandoriCandidates *candidates, RandoriSink sink);
    /* Takes the drawn token and its reshaped log-prob; 1, or 0 after an error to the sink. */
    uint32_t (*accept)(const void *object, void *state, uint32_t token, float logp, RandoriSink sink);
    /* Frees a state. */
    void (*end)(void *state);
} RandoriSampler;

/* `Value.kind`: a real number, in `float_`. */
#define RANDORI_FLOAT 1

/* `Value.kind`: a whole number, in `int_`. */
#define RANDORI_INT 2

/* `Value.kind`: 0 or 1, in `int_`. */
#define RANDORI_BOOL 3

/* `Value.kind`: text, in `text`. */
#define RANDORI_TEXT 4

/* A value of an option. Its layout never changes. */
typedef struct RandoriValue {
    /* `FLOAT`, `INT`, `BOOL` or `TEXT`: which field is used. */
    uint32_t kind;
    /* Whole numbers, and 0 or 1. */
    int64_t int_;
    /* Real numbers. */
    double float_;
    /* Text. */
    RandoriStr text;
} RandoriValue;

/* A declared option. */
typedef struct RandoriOpt {
    /* Key in the recipe. */
    RandoriStr name;
    /* One sentence. */
    RandoriStr doc;
    /* Its default, which also fixes its type. */
    RandoriValue default_;
    /* Smallest number allowed; -INFINITY: any. */
    double min;
    /* Largest number allowed; INFINITY: any. */
    double max;
    /* Allowed texts. */
    const RandoriStr *choices;
    /* How many; 0: any text. */
    size_t n_choices;
} RandoriOpt;

/* `Item.kind`: the vtable is an `RandoriArch`. */
#define RANDORI_ARCH 1

/* `Item.kind`: the vtable is a `RandoriLoss`. */
#define RANDORI_LOSS 2

/* `Item.kind`: the vtable is a `RandoriSampler`. */
#define RANDORI_SAMPLER 3

/* An item of a plugin. */
typedef struct RandoriItem {
    /* `ARCH`, `LOSS`, `SAMPLER`; a host skips unknown kinds. */
    uint32_t kind;
    /* Its name in recipes; for an architecture the configuration's `model_type`. */
    RandoriStr name;
    /* One sentence. */
    RandoriStr doc;
    /* Its options. */
    const RandoriOpt *opts;
    /* How many. */
    size_t n_opts;
    /*
     * Makes an object from one checked value per option, in order, and an architecture's
     * configuration as JSON; NULL after an error to the sink.
     */
    void *(*create)(const RandoriValue *args, size_t n_args, RandoriStr config, RandoriSink sink);
    /* Frees an object. */
    void (*destroy)(void *object);
    /* Its functions. */
    const void *vtable;
} RandoriItem;

/* A plugin's descriptor, its one exported constant; reading it runs no code. */
typedef struct RandoriPlugin {
    /* Bytes of this struct. */
    size_t size;
    /* Bytes from one item to the next. */
    size_t item_size;
    /* Bytes from one option to the next. */
    size_t opt_size;
    /* Package name without `randori-plugin-`. */
    RandoriStr name;
    /* Its version. */
    RandoriStr version;
    /* One sentence. */
    RandoriStr doc;
    /* Its items. */
    const RandoriItem *items;
    /* How many. */
    size_t n_items;
    /* Version of the SDK (or of this header) that it was built with, for messages. Came later. */
    RandoriStr sdk;
} RandoriPlugin;

#ifdef __cplusplus
}
#endif

#endif
