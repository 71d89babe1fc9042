//! The ABI's layout on 64-bit systems, byte by byte. A line that has to change here breaks every
//! plugin out there: tables grow at their end, and everything else stays where it is.
#![cfg(target_pointer_width = "64")]

use std::mem::{offset_of, size_of};

use randori_sdk::{abi::*, growing::Growing};

/// Size and field offsets of a struct, against what was released.
macro_rules! check {
    ($type:ident: $size:literal, $($field:ident $offset:literal),+) => {
        assert_eq!(size_of::<$type>(), $size, stringify!(size of $type));
        $(assert_eq!(offset_of!($type, $field), $offset, stringify!($type.$field));)+
    };
}

#[test]
fn interface_1_lies_where_it_lay() {
    assert_eq!(MAJOR, 1);
    check!(Str: 16, ptr 0, len 8);
    check!(Sink: 16, ctx 0, put 8);
    check!(Rope: 64, size 0, interleaved 8, mscale 12, inv_freq 16, n 24, long_after 32,
        long_inv_freq 40, growth 48, growth_every 56);
    check!(Attn: 32, size 0, window 8, scale 16, softcap 20, sinks 24, chunk 28);
    check!(Route: 48, size 0, top_k 8, sigmoid 16, normalise 20, scale 24, unused 28,
        bias 32, groups 36, top_groups 40, group_best 44);
    check!(Ops: 168, size 0, fail 8, embed 16, linear 24, rms_norm 32, layer_norm 40, rope 48,
        attention 56, moe 64, unary 72, binary 80, affine 88, unflatten 96, flatten 104, narrow 112,
        concat 120, conv 128, delta_rule 136, param 144, carry 152, carried 160);
    check!(Arch: 48, size 0, layers 8, embed 16, block 24, head 32, dialect 40);
    check!(Rows: 80, size 0, n 8, groups 16, group 24, role 32, logp 40, ref_logp 48, len 56,
        reward 64, progress 72);
    check!(Grads: 40, size 0, loss 8, d_logp 16, metric 24, ctx 32);
    check!(Loss: 32, size 0, needs_ref 8, eval 16, coupled 24, needs_reward 28);
    check!(Candidates: 32, size 0, n 8, ids 16, logits 24);
    check!(Step: 48, size 0, tokens 8, n 16, prompt 24, uniform 32, ctx 40);
    check!(Sampler: 40, size 0, begin 8, apply 16, accept 24, end 32);
    check!(Value: 40, kind 0, int_ 8, float_ 16, text 24);
    check!(Opt: 104, name 0, doc 16, default_ 32, min 72, max 80, choices 88, n_choices 96);
    check!(Item: 80, kind 0, name 8, doc 24, opts 40, n_opts 48, create 56, destroy 64, vtable 72);
    check!(Plugin: 104, size 0, item_size 8, opt_size 16, name 24, version 40, doc 56, items 72,
        n_items 80, sdk 88);
}

/// How long each growing struct was when interface 1 was first released: never to be changed.
#[test]
fn what_was_released_first_is_read_for_ever() {
    let first = [
        <Rope as Growing>::FIRST,
        <Attn as Growing>::FIRST,
        <Route as Growing>::FIRST,
        <Arch as Growing>::FIRST,
        <Rows as Growing>::FIRST,
        <Grads as Growing>::FIRST,
        <Loss as Growing>::FIRST,
        <Candidates as Growing>::FIRST,
        <Step as Growing>::FIRST,
        <Sampler as Growing>::FIRST,
        <Opt as Growing>::FIRST,
        <Item as Growing>::FIRST,
        <Plugin as Growing>::FIRST,
    ];
    assert_eq!(first, [32, 24, 32, 40, 80, 40, 24, 32, 48, 40, 104, 80, 88]);
}

/// Bytes that no field holds are anything: a reader that does not know them would find them not 0.
#[test]
fn what_came_later_has_no_padding() {
    let loss = size_of::<Loss>() - <Loss as Growing>::FIRST;
    assert_eq!(loss, 2 * size_of::<u32>()); // coupled, needs_reward
    let attn = size_of::<Attn>() - <Attn as Growing>::FIRST;
    assert_eq!(attn, 2 * size_of::<u32>()); // sinks, chunk
    let route = size_of::<Route>() - <Route as Growing>::FIRST;
    assert_eq!(route, 4 * size_of::<u32>()); // bias, groups, top_groups, group_best
    let rope = size_of::<Rope>() - <Rope as Growing>::FIRST;
    // long_after, growth_every; long_inv_freq; growth
    let fields = 2 * size_of::<usize>() + size_of::<*const f32>() + size_of::<f64>();
    assert_eq!(rope, fields);
    let arch = size_of::<Arch>() - <Arch as Growing>::FIRST;
    assert_eq!(arch, size_of::<Option<fn()>>()); // dialect
    let plugin = size_of::<Plugin>() - <Plugin as Growing>::FIRST;
    assert_eq!(plugin, size_of::<Str>()); // sdk
}

#[test]
fn names_of_numbers_are_not_reused() {
    assert_eq!(
        [
            SILU, GELU, GELU_TANH, TANH, SIGMOID, RELU, EXP, SOFTMAX, SOFTPLUS
        ],
        [1, 2, 3, 4, 5, 6, 7, 8, 9]
    );
    assert_eq!([ADD, SUB, MUL, DIV], [1, 2, 3, 4]);
    assert_eq!([REAL, GENERATED], [0, 1]);
    assert_eq!([FLOAT, INT, BOOL, TEXT], [1, 2, 3, 4]);
    assert_eq!([ARCH, LOSS, SAMPLER], [1, 2, 3]);
}

#[test]
fn the_seam_counts_as_the_abi_does() {
    use randori_sdk::seam::{Binary, Unary};
    let unary = [
        (Unary::Silu, SILU),
        (Unary::Gelu, GELU),
        (Unary::GeluTanh, GELU_TANH),
        (Unary::Tanh, TANH),
        (Unary::Sigmoid, SIGMOID),
        (Unary::Relu, RELU),
        (Unary::Exp, EXP),
        (Unary::Softmax, SOFTMAX),
        (Unary::Softplus, SOFTPLUS),
    ];
    assert!(unary.iter().all(|(seam, abi)| *seam as u32 == *abi));
    let binary = [
        (Binary::Add, ADD),
        (Binary::Sub, SUB),
        (Binary::Mul, MUL),
        (Binary::Div, DIV),
    ];
    assert!(binary.iter().all(|(seam, abi)| *seam as u32 == *abi));
    assert_eq!(
        (randori_sdk::REAL, randori_sdk::GENERATED),
        (REAL, GENERATED)
    );
}
