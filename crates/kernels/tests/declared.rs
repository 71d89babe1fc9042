//! What `Shapes` declares against what `Cpu` does: the axes of every result, and the multiply-adds
//! to the last one. One test, since multiply-adds are counted for the whole process.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use candle_core::{Device, Tensor};
use randori_kernels::{
    ChunkTarget, Cpu, ExpertOutput, Gain, Heads, Kernels, Norm, Plan, Result, Run, SegmentMask,
    Shaped, Weight,
    shapes::{Matrix, Shapes, Update},
    work,
};
use randori_sdk::seam::{AttnSpec, Binary, RopeSpec, RouteSpec, Unary};

const ROWS: usize = 6;
const WIDTH: usize = 8;
const OUT: usize = 12;
const RANK: usize = 3;
const VOCAB: usize = 12;
const EXPERTS: usize = 4;

/// The inputs of a kind of kernels.
struct Inputs<'a, K: Kernels> {
    kernels: &'a K,
    /// Values of these axes.
    make: &'a dyn Fn(&[usize]) -> K::Tensor,
    /// (rows, experts): the first half of the tokens goes to the first half of the experts.
    router: K::Tensor,
    /// (out, in)
    weight: K::Matrix,
    update: K::Update,
    plan: K::Plan,
    /// Two of the rows.
    some: K::Indices,
    targets: K::ChunkTargets,
}

/// Calls every kernel once; the axes of all results.
fn each<K: Kernels>(given: &Inputs<K>) -> Result<Vec<(&'static str, Vec<usize>)>> {
    let (k, make, plan) = (given.kernels, given.make, &given.plan);
    let mut seen = Vec::new();
    let mut see = |name, x: &K::Tensor| seen.push((name, x.dims().to_vec()));
    let (x, y) = (make(&[ROWS, WIDTH]), make(&[ROWS, OUT]));

    let tokens = k.tokens(plan)?;
    see("tokens", &tokens);
    let ids = k.token_ids("e", &tokens, VOCAB).unwrap();
    assert_eq!((k.row_count(plan), k.count(&ids)), (ROWS, ROWS));
    assert_eq!(k.count(&k.compose(None, &given.some)), 2);
    see("lookup", &k.lookup(&given.weight, &ids)?);
    k.lookup_gradient(&ids, &x, &make(&[VOCAB, WIDTH]))?;
    see("gather", &k.gather(&x, &given.some)?);
    see("pick", &k.pick(&x, &given.some)?);
    see("zeros", &k.zeros(&[2, 3], &x)?);
    see("zero_gradient", &k.zero_gradient(&[2, 3], &x)?);
    k.scatter(&make(&[2, WIDTH]), &given.some, &x)?;
    k.add_onto(&x, &make(&[ROWS, WIDTH]))?;

    see("product", &k.product(&x, &given.weight)?);
    see("product_backward", &k.product_backward(&y, &given.weight)?);
    k.weight_gradient(&x, &y, &make(&[OUT, WIDTH]))?;
    k.add_bias(&y, &make(&[OUT]))?;
    k.bias_gradient(&y, &make(&[OUT]))?;
    let xa = k.add_update(&x, &given.update, &y)?;
    see("add_update", &xa);
    let (da, db) = (make(&[RANK, WIDTH]), make(&[OUT, RANK]));
    let u = k.update_backward(&x, &xa, &given.update, &y, [&da, &db])?;
    see("update_backward", &u);
    k.update_input_gradient(&u, &given.update, &x)?;
    assert!(k.has_dropout(plan));
    see("apply_dropout", &k.apply_dropout(plan, &x, 0.5, None, 7)?);
    see(
        "apply_dropout to some",
        &k.apply_dropout(plan, &make(&[2, WIDTH]), 0.5, Some(&given.some), 7)?,
    );
    let gain = Gain {
        factors: vec![1.0; OUT],
        magnitude: vec![1.0; OUT],
    };
    k.scale_columns(&y, &gain)?;
    k.magnitude_gradient(&y, None, &y.duplicate()?, &gain, &make(&[OUT]))?;

    let w = make(&[WIDTH]);
    for norm in [Norm::Rms { plus: 0.0 }, Norm::Layer] {
        let (y, stats) = k.norm(&x, &w, None, norm, 1e-5)?;
        see("norm", &y);
        see("norm_backward", &k.norm_backward(&x, &w, norm, &stats, &y)?);
        k.scale_gradient(&x, &stats, &y, &make(&[WIDTH]))?;
    }
    attend(given, &mut see)?;
    recur(given, &mut see)?;
    mix(given, &mut see)?;

    for op in Unary::ALL {
        let y = k.unary(op, &x)?;
        see("unary", &y);
        see("unary_backward", &k.unary_backward(op, &y, &x)?);
    }
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
        for row in [make(&[ROWS, 1]), make(&[1, WIDTH])] {
            see("binary", &k.binary(op, &x, &row)?);
            let (a, b) = (Some(&x), Some(&row));
            see(
                "binary_backward_b",
                &k.binary_backward_b(op, a, b, row.dims(), &x)?,
            );
        }
    }
    see("swiglu", &k.swiglu(&x, &x)?);
    let (dg, du) = k.swiglu_backward(&x, &x, &x)?;
    see("swiglu_backward g", &dg);
    see("swiglu_backward u", &du);
    see("affine", &k.affine(&x, 2.0, 1.0)?);
    let part = k.narrow(&x, 1, 3)?;
    see("narrow", &part);
    see("widen", &k.widen(&part, 1, WIDTH)?);
    see("concat", &k.concat(&[part, x.clone()])?);

    let logits = make(&[2, VOCAB]);
    let sums = k.log_sum_exp(&logits)?;
    k.log_probs(&logits, &sums, &given.targets, &mut [0.0; 2])?;
    k.logits_gradient(&logits, &sums, &given.targets, &|_| 1.0)?;
    k.scatter_slopes(
        &make(&[2, WIDTH]),
        &given.some,
        &given.targets,
        &[1.0; 2],
        &x,
    )?;
    Ok(seen)
}

fn attend<K: Kernels>(
    given: &Inputs<K>,
    see: &mut dyn FnMut(&'static str, &K::Tensor),
) -> Result<()> {
    let (k, make, plan) = (given.kernels, given.make, &given.plan);
    let (q, kv) = (make(&[ROWS, 4, 4]), make(&[ROWS, 2, 4]));
    let spec = RopeSpec {
        inv_freq: vec![1.0, 0.5],
        ..RopeSpec::default()
    };
    let table = k.rope_table(plan, &spec)?;
    see("rotate", &k.rotate(&q, &table, false)?);
    for (value_dim, sinks) in [(4, None), (3, Some(make(&[1, 4])))] {
        let heads = Heads {
            value_dim,
            ..Heads::new(4, 2, 4, &AttnSpec::default())
        };
        let v = make(&[ROWS, 2, value_dim]);
        let (out, sums) = k.attention(plan, [&q, &kv, &v], sinks.as_ref(), &heads)?;
        see("attention", &out);
        let done = (&out, &sums);
        for d in k.attention_backward(plan, [&q, &kv, &v], &heads, done, &out)? {
            see("attention_backward", &d);
        }
        if let Some(sinks) = &sinks {
            see(
                "sinks_gradient",
                &k.sinks_gradient(sinks, &heads, done, &out)?,
            );
        }
    }
    Ok(())
}

fn recur<K: Kernels>(
    given: &Inputs<K>,
    see: &mut dyn FnMut(&'static str, &K::Tensor),
) -> Result<()> {
    let (k, make, plan) = (given.kernels, given.make, &given.plan);
    let (x, w) = (make(&[ROWS, WIDTH]), make(&[WIDTH, 1, 3]));
    see("convolve", &k.convolve(plan, &x, &w)?);
    see("convolve_backward", &k.convolve_backward(plan, &w, &x)?);
    k.taps_gradient(plan, &x, &x, &make(&[WIDTH, 1, 3]))?;
    let (keys, v, gates) = (make(&[ROWS, 2, 3]), make(&[ROWS, 4, 5]), make(&[ROWS, 4]));
    let inputs = [&keys, &keys, &v, &gates, &gates];
    let out = k.delta_rule(plan, inputs)?;
    see("delta_rule", &out);
    for d in k.delta_rule_backward(plan, inputs, &out)? {
        see("delta_rule_backward", &d);
    }
    Ok(())
}

fn mix<K: Kernels>(given: &Inputs<K>, see: &mut dyn FnMut(&'static str, &K::Tensor)) -> Result<()> {
    let (k, make) = (given.kernels, given.make);
    let route = RouteSpec::top(2).normalised();
    let routing = k.route(&given.router, None, &route)?;
    let tokens = k.tokens_of(&routing, 0).unwrap();
    assert_eq!((k.count(&tokens.rows), k.count(&tokens.choices)), (3, 3));
    let (value, dout) = (make(&[3, WIDTH]), make(&[ROWS, WIDTH]));
    k.add_weighted(&routing, &tokens, &value, &make(&[ROWS, WIDTH]))?;
    let expert = ExpertOutput {
        tokens: &tokens,
        value: Some(value),
        needs: true,
    };
    let (outputs, logits) = k.mix_backward(&routing, &[expert], true, &dout)?;
    outputs
        .iter()
        .flatten()
        .for_each(|dy| see("mix_backward", dy));
    see("mix_backward router", &logits.unwrap());
    Ok(())
}

/// Packed rows of one sequence, with dropout.
fn plan() -> Plan {
    let own = Run {
        row: 0,
        len: ROWS,
        position: 0,
    };
    let mask = SegmentMask {
        queries: own,
        keys: vec![own],
        tree: 0,
    };
    let rows = 0..ROWS as u32;
    let keys = Some((0..ROWS as u64).collect());
    Plan::packed(rows.clone().collect(), rows.collect(), vec![mask], keys)
}

fn floats(dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i % 7) as f32 / 7.0 + 0.5).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

#[test]
fn shapes_are_those_of_the_processor_and_so_is_the_work() {
    let router: Vec<f32> = (0..ROWS * EXPERTS)
        .map(|i| {
            let first = i / EXPERTS < ROWS / 2;
            f32::from(u8::from(first == (i % EXPERTS < 2)))
        })
        .collect();
    let target = |row| ChunkTarget {
        row,
        token: 1,
        target: row,
    };
    let before = work::multiply_adds();
    let done = each(&Inputs {
        kernels: &Cpu,
        make: &floats,
        router: Tensor::from_vec(router, (ROWS, EXPERTS), &Device::Cpu).unwrap(),
        weight: Weight::Dense(floats(&[OUT, WIDTH])),
        update: randori_lora::Update {
            a: floats(&[RANK, WIDTH]),
            b: floats(&[OUT, RANK]),
            scale: 2.0,
            magnitude: None,
        },
        plan: plan(),
        some: [1, 4].into(),
        targets: vec![target(0), target(1)],
    });
    let multiplied = work::multiply_adds() - before;

    let mut shapes = Shapes::new(1, None);
    shapes.attended = (ROWS * ROWS) as u64; // one block of queries sees up to its last
    shapes.drops = true;
    let declared = each(&Inputs {
        kernels: &shapes,
        make: &|dims| shapes.values(dims),
        router: shapes.values(&[ROWS, EXPERTS]),
        weight: Matrix {
            shape: (OUT, WIDTH),
            stored: None,
            own: true,
        },
        update: Update { rank: RANK },
        plan: ROWS,
        some: 2,
        targets: (),
    });
    assert_eq!(declared.unwrap(), done.unwrap());
    assert_eq!(shapes.work.get().multiply_adds, multiplied as f64);
    assert_eq!(
        shapes.ledger.live(),
        0,
        "nothing is held once nobody holds it"
    );
}
