//! Decoding over a paged cache, against the packed kernels and f64.

use crate::emulator::*;
use randori_cuda::{
    Float, Ptr,
    ops::{
        attention::{Attention, DeviceLists},
        decode::{Pages, Sequences},
        tiles::{Lists, Span},
    },
};

struct Batch {
    /// Queries and keys of each sequence.
    lengths: Vec<(usize, usize)>,
    page: usize,
}

impl Batch {
    fn tokens(&self) -> usize {
        self.lengths.iter().map(|l| l.0).sum()
    }
    /// Tables of pages in shuffled order, and how many there are.
    fn tables(&self, dice: &mut Dice) -> (Vec<Vec<u32>>, usize) {
        let wide = self
            .lengths
            .iter()
            .map(|l| l.1.div_ceil(self.page))
            .max()
            .unwrap();
        let n = wide * self.lengths.len();
        let mut numbers: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            numbers.swap(i, dice.below(i + 1));
        }
        (numbers.chunks(wide).map(<[u32]>::to_vec).collect(), wide)
    }
}

fn f64s(
    a: &Attention,
    b: &Batch,
    tables: &[Vec<u32>],
    q: &[f64],
    k: &[f64],
    v: &[f64],
) -> Vec<f64> {
    let (d, group) = (a.dim, a.heads / a.kv_heads);
    let mut out = vec![0.0; q.len()];
    let mut row = 0;
    for ((queries, keys), table) in b.lengths.iter().zip(tables) {
        for i in 0..*queries {
            let position = keys - queries + i;
            for h in 0..a.heads {
                let at = ((row + i) * a.heads + h) * d;
                let first = a.window.map_or(0, |w| (position + 1).saturating_sub(w));
                let place = |j: usize| {
                    let row = table[j / b.page] as usize * b.page + j % b.page;
                    (row * a.kv_heads + h / group) * d
                };
                let scores: Vec<f64> = (first..=position)
                    .map(|j| {
                        let dot: f64 = (0..d).map(|c| q[at + c] * k[place(j) + c]).sum();
                        let x = dot * f64::from(a.scale);
                        a.softcap
                            .map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                for (j, s) in (first..=position).zip(&scores) {
                    for c in 0..d {
                        out[at + c] += (s - most).exp() / sum * v[place(j) + c];
                    }
                }
            }
        }
        row += queries;
    }
    out
}

/// Computes the batch by the decoding kernel and by the kernel for many queries, and compares both
/// with f64. Returns the first's results.
fn check(a: &Attention, b: &Batch, seed: u64) -> Vec<f64> {
    let Some(on) = emulator() else { return vec![] };
    let mut dice = Dice(seed);
    let (tables, pages) = b.tables(&mut dice);
    let rows = tables.len() * pages * b.page;
    let (mut list, mut spans, mut row) = (Vec::new(), Vec::new(), 0);
    for (slot, (queries, keys)) in b.lengths.iter().enumerate() {
        list.extend([row, *queries, *keys, slot].map(|n| n as i32));
        spans.push(Span::paged(row, *queries, &tables[slot], b.page, *keys).unwrap());
        row += queries;
    }
    let lists = Lists::queries(&spans, a.tokens, a.window).unwrap();
    let flat: Vec<i32> = tables.iter().flatten().map(|n| *n as i32).collect();
    let (list, flat) = (Buffer::of(&list, -7), Buffer::of(&flat, -7));
    let (blocks, runs) = (
        Buffer::of(lists.blocks.as_flattened(), -7),
        Buffer::of(lists.runs.as_flattened(), -7),
    );
    let keys = b.lengths.iter().map(|l| l.1).max().unwrap();
    let sizes = a.decode_room(keys);
    let (parts, weights, lse) = (room(sizes.0), room(sizes.1), room(a.tokens * a.heads));
    let sequences = Sequences {
        list: list.ptr(),
        count: b.lengths.len(),
        queries: b.lengths.iter().map(|l| l.0).max().unwrap(),
        keys,
    };
    let n = a.tokens * a.heads * a.dim;
    let q = dice.normals(n);
    let (k, v) = (
        dice.normals(rows * a.kv_heads * a.dim),
        dice.normals(rows * a.kv_heads * a.dim),
    );
    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    macro_rules! run {
        ($of:ident, $room:ident, $wide:ident) => {{
            let (qb, kb, vb, one, two) = ($of(&q), $of(&k), $of(&v), $room(n), $room(n));
            let cache = Pages {
                k: kb.ptr(),
                v: vb.ptr(),
                tables: flat.ptr(),
                pages,
                page: b.page,
            };
            a.decode(
                on,
                qb.ptr(),
                &cache,
                &sequences,
                one.ptr(),
                parts.ptr(),
                weights.ptr(),
            )
            .unwrap();
            let on_device = DeviceLists {
                blocks: blocks.ptr(),
                count: lists.blocks.len(),
                runs: runs.ptr(),
            };
            a.forward(
                on,
                qb.ptr(),
                kb.ptr(),
                vb.ptr(),
                on_device,
                two.ptr(),
                lse.ptr(),
            )
            .unwrap();
            let want = f64s(
                a,
                b,
                &tables,
                &$wide(qb.get()),
                &$wide(kb.get()),
                &$wide(vb.get()),
            );
            ($wide(one.get()), $wide(two.get()), want)
        }};
    }
    let ((one, two, want), tolerance) = match a.float {
        Float::F32 => (run!(floats, room, wide), 1e-5),
        Float::Bf16 => (run!(halves, half_room, widened), 6e-2), // the largest of thousands
    };
    for written in [&parts, &weights, &lse] {
        written.get();
    }
    let far = (apart(one.iter().copied(), &want), apart(two, &want));
    assert!(far.0 < tolerance && far.1 < tolerance, "{far:?} {a:?}");
    one
}

fn attention(float: Float, heads: (usize, usize), dim: usize, tokens: usize) -> Attention {
    Attention {
        float,
        tokens,
        heads: heads.0,
        kv_heads: heads.1,
        dim,
        scale: (dim as f32).powf(-0.5),
        window: None,
        softcap: None,
    }
}

#[test]
fn decoding_is_attention_over_the_pages() {
    let heads = [(1, 1), (2, 1), (4, 1), (4, 2), (40, 2)];
    for float in [Float::F32, Float::Bf16] {
        for (i, heads) in heads.into_iter().enumerate() {
            let lengths = vec![(1, 1), (1, 63), (3, 65), (1, 130), (2, 16)];
            let b = Batch {
                lengths,
                page: [16, 64, 7, 32, 16][i],
            };
            let mut a = attention(float, heads, 16, b.tokens());
            a.window = [None, Some(1), Some(50), Some(100), None][i];
            a.softcap = [None, Some(1.5), None, Some(3.0), None][i];
            check(&a, &b, 3 + i as u64);
        }
        for dim in [1, 7, 20, 48, 64, 80, 96, 128, 200, 256] {
            let b = Batch {
                lengths: vec![(1, 37), (2, 100)],
                page: 32,
            };
            check(&attention(float, (2, 1), dim, b.tokens()), &b, dim as u64);
        }
    }
}

#[test]
fn long_sequences_are_cut_and_joined_whatever_the_batch() {
    for float in [Float::F32, Float::Bf16] {
        for window in [None, Some(300)] {
            let alone = Batch {
                lengths: vec![(1, 1300)],
                page: 64,
            };
            let mut a = attention(float, (2, 1), 16, 1);
            a.window = window;
            check(&a, &alone, 5);
            let mixed = Batch {
                lengths: vec![(1, 90), (2, 1300), (1, 512), (1, 513)],
                page: 64,
            };
            a.tokens = mixed.tokens();
            check(&a, &mixed, 5);
        }
    }
}

#[test]
fn a_sequence_decodes_to_the_same_bits_beside_a_long_one() {
    let Some(on) = emulator() else { return };
    let (k, v, q) = (
        Dice(1).normals(1200 * 8),
        Dice(2).normals(1200 * 8),
        Dice(3).normals(16),
    );
    let run = |lengths: &[(i32, i32)]| {
        let a = attention(Float::F32, (1, 1), 8, lengths.len());
        let list: Vec<i32> = (0i32..)
            .zip(lengths)
            .flat_map(|(i, l)| [i, 1, l.0, l.1])
            .collect();
        let (list, tables) = (
            Buffer::of(&list, -7),
            Buffer::of(&[0, 1, 2, 3, 1, 0, 2, 3], -7),
        );
        let keys = lengths.iter().map(|l| l.0).max().unwrap() as usize;
        let (parts, weights, out) = (
            room(a.decode_room(keys).0),
            room(a.decode_room(keys).1),
            room(lengths.len() * 8),
        );
        let (kb, vb, qb) = (floats(&k), floats(&v), floats(&q));
        let cache = Pages {
            k: kb.ptr(),
            v: vb.ptr(),
            tables: tables.ptr(),
            pages: 4,
            page: 300,
        };
        let sequences = Sequences {
            list: list.ptr(),
            count: lengths.len(),
            queries: 1,
            keys,
        };
        a.decode(
            on,
            qb.ptr(),
            &cache,
            &sequences,
            out.ptr(),
            parts.ptr(),
            weights.ptr(),
        )
        .unwrap();
        out.get()[..8]
            .iter()
            .map(|v| v.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&[(400, 0)]), run(&[(400, 0), (1200, 1)]));
    assert_ne!(run(&[(400, 0)]), run(&[(401, 0)]));
}

#[test]
fn new_rows_go_to_their_places_and_nowhere_else() {
    let Some(on) = emulator() else { return };
    for (kv_heads, dim) in [(1, 7), (2, 16), (3, 256)] {
        let width = kv_heads * dim;
        let (k, v) = (Dice(1).normals(3 * width), Dice(2).normals(3 * width));
        let places = Buffer::of(&[4, -1, 0], -7);
        let want = |from: &[f32]| {
            let mut to = vec![9.0; 5 * width];
            to[4 * width..].copy_from_slice(&from[..width]);
            to[..width].copy_from_slice(&from[2 * width..]);
            to
        };
        let a = |float| attention(float, (kv_heads, kv_heads), dim, 3);
        let old = vec![9.0; 5 * width];
        let (kb, vb, kc, vc) = (floats(&k), floats(&v), floats(&old), floats(&old));
        a(Float::F32)
            .append(on, kb.ptr(), vb.ptr(), places.ptr(), 3, kc.ptr(), vc.ptr())
            .unwrap();
        assert!(kc.get() == want(&k) && vc.get() == want(&v));
        let (kb, vb, kc, vc) = (halves(&k), halves(&v), halves(&old), halves(&old));
        a(Float::Bf16)
            .append(on, kb.ptr(), vb.ptr(), places.ptr(), 3, kc.ptr(), vc.ptr())
            .unwrap();
        assert!(kc.get() == halves(&want(&k)).get() && vc.get() == halves(&want(&v)).get());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Span::paged(0, 1, &[3, 4], 8, 17).is_err());
    assert!(Span::paged(0, 3, &[3, 4], 8, 2).is_err());
    let joined = Span::paged(0, 2, &[3, 4, 9], 8, 20).unwrap();
    assert_eq!(
        (joined.keys.len(), joined.keys[0].len, joined.position),
        (2, 16, 18)
    );
    let Some(on) = emulator() else { return };
    let a = attention(Float::F32, (1, 1), 8, 1);
    let none = Ptr::NULL;
    let cache = Pages {
        k: none,
        v: none,
        tables: none,
        pages: 1,
        page: 8,
    };
    let s = Sequences {
        list: none,
        count: 1,
        queries: 1,
        keys: 9,
    };
    assert!(a.decode(on, none, &cache, &s, none, none, none).is_err());
}
