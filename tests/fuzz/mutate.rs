//! Mutations of files: truncation, flipped bits, other lengths and counts, spliced and repeated
//! parts; in JSON and other text, other numbers and words. Each case is a pure function of its
//! number.

/// Random numbers of one case.
pub struct Rng(u64);

impl Rng {
    pub fn new(name: &str, case: u64) -> Rng {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        Rng(name ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            0
        } else {
            (self.next() % n as u64) as usize
        }
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What a file is made of.
#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "recipes have no use for all of them")]
pub enum Kind {
    /// JSON, TOML, Jinja, lines.
    Text,
    /// Anything else.
    Bytes,
    /// 8 bytes of length, JSON of that length, data: the length is usually kept right.
    Safetensors,
}

/// A damaged copy.
pub fn mutate(rng: &mut Rng, kind: Kind, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..1 + rng.below(3) * rng.below(2) {
        out = match kind {
            Kind::Text if rng.below(4) > 0 => text(rng, &out),
            Kind::Safetensors if rng.below(3) > 0 => header(rng, &out),
            _ => bytes(rng, &out),
        };
    }
    out
}

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    255,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 62,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

fn bytes(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    // headers are where a file is decided, so half of the damage goes to the beginning
    let span = match rng.below(4) {
        0 | 1 => out.len().min(1024),
        2 => out.len().min(64),
        _ => out.len(),
    };
    let at = rng.below(span);
    match rng.below(9) {
        0 => out.truncate(rng.below(out.len() + 1)),
        1 => (0..1 + rng.below(8)).for_each(|_| {
            let i = rng.below(span);
            if let Some(b) = out.get_mut(i) {
                *b ^= 1 << rng.below(8);
            }
        }),
        2 => (0..1 + rng.below(8)).for_each(|_| {
            let (i, value) = (rng.below(span), rng.next() as u8);
            if let Some(b) = out.get_mut(i) {
                *b = *rng.pick(&[value, 0, 0xff, 0x7f, 0x80]);
            }
        }),
        3 | 4 => {
            let near = out.len() as u64;
            let number = match rng.below(4) {
                0 => near.wrapping_add(rng.next() % 64).wrapping_sub(32),
                1 => near.wrapping_mul(rng.next() % 5000),
                _ => *rng.pick(&NUMBERS),
            };
            let width = *rng.pick(&[1, 2, 4, 8]);
            for (b, new) in out.iter_mut().skip(at).zip(&number.to_le_bytes()[..width]) {
                *b = *new;
            }
        }
        5 => {
            let (from, len) = (rng.below(out.len()), rng.below(64));
            let part: Vec<u8> = out[from..].iter().copied().take(len).collect();
            match rng.below(2) {
                0 => drop(out.splice(at..at, part)),
                _ => {
                    let end = (at + part.len()).min(out.len());
                    out.splice(at..end, part);
                }
            }
        }
        6 => {
            let end = (at + rng.below(64)).min(out.len());
            out.drain(at..end);
        }
        7 => {
            let value = rng.next() as u8;
            let count = *rng.pick(&[1, 2, 3, 8, 1000]);
            out.splice(at..at, std::iter::repeat_n(value, count));
        }
        _ => {
            let part = out[at..].to_vec();
            out.extend(part.into_iter().take(256));
        }
    }
    out
}

/// Values to put in place of others.
const VALUES: [&str; 30] = [
    "0",
    "-1",
    "1",
    "2",
    "3.5",
    "-0.0",
    "1e999",
    "-1e999",
    "1e-320",
    "NaN",
    "Infinity",
    "inf",
    "null",
    "true",
    "4294967295",
    "4294967296",
    "2147483648",
    "1073741824",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999999",
    "1000000007",
    "\"x\"",
    "\"\"",
    "[]",
    "{}",
    "[[1]]",
    "\"\\ud800\"",
];

fn text(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let number = |b: u8| b.is_ascii_digit() || b"-+.eE".contains(&b);
    match rng.below(8) {
        0..=3 => {
            let start = |b: u8| b.is_ascii_digit() || b == b'-';
            replace(rng, input, start, number)
        }
        4 => replace(rng, input, |b| b == b'"', |b| b != b'"' && b != b'\n'),
        5 => {
            let at = rng.below(input.len());
            let open = *rng.pick(&[
                "[",
                "{\"a\":",
                "(",
                "{% if x %}",
                "{{ (",
                "a.",
                "!",
                "[[",
                "\"",
                "-",
            ]);
            let mut out = input[..at].to_vec();
            out.extend(open.repeat(*rng.pick(&[1, 50, 200, 5000])).bytes());
            out.extend(&input[at..]);
            out
        }
        6 => replace(
            rng,
            input,
            |b| b.is_ascii_alphabetic(),
            |b| b.is_ascii_alphanumeric() || b == b'_',
        ),
        _ => swap_lines(rng, input),
    }
}

/// Another value for one stretch of text.
fn replace(
    rng: &mut Rng,
    input: &[u8],
    first: impl Fn(u8) -> bool,
    rest: impl Fn(u8) -> bool,
) -> Vec<u8> {
    let begin = rng.below(input.len());
    let from = |at: usize| input[at..].iter().position(|&b| first(b)).map(|i| at + i);
    let Some(at) = from(begin).or_else(|| from(0)) else {
        return bytes(rng, input);
    };
    let len = 1 + input[at + 1..].iter().take_while(|&&b| rest(b)).count();
    let quoted = usize::from(input[at] == b'"');
    let end = (at + len + quoted).min(input.len());
    let mut out = input[..at].to_vec();
    out.extend(rng.pick(&VALUES).bytes());
    out.extend(&input[end..]);
    out
}

/// One part between separators twice, or none.
fn swap_lines(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let separator = *rng.pick(b",\n}");
    let mut parts: Vec<&[u8]> = input.split(|&b| b == separator).collect();
    let (i, j) = (rng.below(parts.len()), rng.below(parts.len()));
    match rng.below(3) {
        0 => parts.swap(i, j),
        1 => parts.insert(i, parts[j]),
        _ => drop(parts.remove(i)),
    }
    parts.join(&separator)
}

fn header(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let length = input.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)) as usize;
    let Some(json) = input.get(8..).and_then(|rest| rest.get(..length)) else {
        return bytes(rng, input);
    };
    let damaged = text(rng, json);
    let mut out = (damaged.len() as u64).to_le_bytes().to_vec();
    out.extend(damaged);
    out.extend(&input[8 + length..]);
    out
}
