//! A run's TensorBoard events: every point exactly once, whatever was killed.

use std::{fs, path::Path};

use crate::scene::{self, Adapter, Answer, rules, spec};
use randori_core::Signals;
use randori_store::{Board, Disk, JsonLines, Open, Run, load};

/// An event file read by a reader that shares nothing with the writer: framing, both checksums
/// (table-driven), and a protobuf walk that knows the fields by number.
mod events {
    use super::*;

    pub fn read(path: &Path) -> Vec<(String, u64, f32)> {
        let bytes = fs::read(path).unwrap();
        let mut points = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            let (check, tail) = tail.split_at(4);
            assert_eq!(unmask(check), crc(length));
            let (data, tail) =
                tail.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (check, tail) = tail.split_at(4);
            assert_eq!(unmask(check), crc(data));
            rest = tail;
            let event = fields(data);
            let step = event
                .iter()
                .find(|(n, _)| *n == 2)
                .map_or(0, |(_, v)| u64::from_le_bytes(v[..].try_into().unwrap()));
            for (_, summary) in event.iter().filter(|(n, _)| *n == 5) {
                for (_, value) in fields(summary) {
                    let value = fields(&value);
                    let tag = String::from_utf8(value[0].1.clone()).unwrap();
                    points.push((
                        tag,
                        step,
                        f32::from_le_bytes(value[1].1[..].try_into().unwrap()),
                    ));
                }
            }
        }
        points
    }

    fn unmask(check: &[u8]) -> u32 {
        u32::from_le_bytes(check.try_into().unwrap())
            .wrapping_sub(0xa282ead8)
            .rotate_left(15)
    }

    fn crc(bytes: &[u8]) -> u32 {
        let table: Vec<u32> = (0..256u32)
            .map(|mut n| {
                for _ in 0..8 {
                    n = if n & 1 == 1 {
                        n >> 1 ^ 0x82f63b78
                    } else {
                        n >> 1
                    };
                }
                n
            })
            .collect();
        !bytes.iter().fold(u32::MAX, |crc, b| {
            table[(crc as u8 ^ b) as usize] ^ crc >> 8
        })
    }

    fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let value = match key & 7 {
                0 => varint(&mut data).to_le_bytes().to_vec(),
                1 => take(&mut data, 8),
                2 => {
                    let length = varint(&mut data) as usize;
                    take(&mut data, length)
                }
                5 => take(&mut data, 4),
                wire => panic!("wire type {wire}"),
            };
            all.push((key >> 3, value));
        }
        all
    }

    fn take(data: &mut &[u8], n: usize) -> Vec<u8> {
        let (head, tail) = data.split_at(n);
        *data = tail;
        head.to_vec()
    }

    fn varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = take(data, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    }
}

#[test]
fn tensorboard_sees_every_step_once_through_kills() {
    let home = scene::home();
    let dir = home.path().join("demo");
    let mut played = false;
    for at in (20..2000).step_by(17) {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let disk = Disk::gated(move |_| {
            match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < at {
                true => Ok(()),
                false => Err(std::io::Error::other("gone")),
            }
        });
        let Ok(mut run) = Run::open_on(disk, &dir, &spec(), Open::Resume) else {
            continue;
        };
        let Ok(_board) = run.board() else { continue };
        if randori_core::play(&mut scene::Scene, &mut run, &rules()).is_ok() {
            played = true;
            break;
        }
    }
    assert!(played);
    // Opened once more, it is written from what the folder holds.
    let mut run = Run::open(&dir, &spec(), Open::Resume).unwrap();
    run.board().unwrap();
    let points = events::read(&dir.join(Board::FILE));
    let steps: Vec<u64> = points
        .iter()
        .filter(|p| p.0 == "train/loss")
        .map(|p| p.1)
        .collect();
    assert_eq!(steps, (1..=10).collect::<Vec<u64>>());
    let iterations: Vec<u64> = points
        .iter()
        .filter(|p| p.0 == "eval/accuracy")
        .map(|p| p.1)
        .collect();
    assert_eq!(iterations, [0, 1]);
    let last: Signals = load(&dir, "iter-1", "eval").unwrap();
    assert!(points.contains(&("eval/logps_real".into(), 1, last.logps_real as f32)));
    assert!(
        !points
            .iter()
            .any(|p| p.0.contains("step") || p.0.contains("exact_match"))
    );
}

#[test]
fn tensorboard_is_live_while_the_game_is_played() {
    struct Told(scene::Scene, Board);
    let home = scene::home();
    let mut run = Run::open(home.path(), &spec(), Open::Resume).unwrap();
    let mut game = Told(scene::Scene, run.board().unwrap());
    for t in 0..2 {
        let now = rules().iteration(t);
        let pairs = JsonLines(vec![scene::Pair {
            answer: Answer {
                sequence: 0,
                tokens: vec![1],
            },
            logp: -1.0,
        }]);
        let train = |workspace: &mut randori_store::Workspace| {
            randori_core::Game::train(&mut game.0, &now, Adapter(vec![1, 2, 3]), &pairs, workspace)
        };
        run.record(&randori_store::iteration_folder(t), "policy", train)
            .unwrap();
        game.1
            .eval(
                t,
                &Signals {
                    pairs: 1,
                    ..Signals::none()
                },
            )
            .unwrap();
    }
    let points = events::read(&home.path().join(Board::FILE));
    let steps: Vec<u64> = points
        .iter()
        .filter(|p| p.0 == "train/loss")
        .map(|p| p.1)
        .collect();
    assert_eq!(steps, (1..=10).collect::<Vec<u64>>());
}
