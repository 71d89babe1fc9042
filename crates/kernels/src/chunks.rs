//! Attention within chunks of positions, as a mask: queries are cut where they enter another chunk,
//! and see of the keys those of their own. So kernels know nothing of chunks.

use crate::Run;

/// The parts of `queries` that lie in different chunks of `chunk` positions, each with what it sees
/// of `keys`. Runs of keys are cut by chunks alone, so that all parts of a chunk see equal ones.
pub(crate) fn parts(queries: Run, keys: &[Run], chunk: usize) -> Vec<(Run, Vec<Run>)> {
    let end = queries.position + queries.len;
    let (mut parts, mut first) = (Vec::new(), queries.position);
    while first < end {
        let start = first / chunk * chunk;
        let next = start.saturating_add(chunk);
        let seen = keys.iter().filter_map(|run| between(run, start, next));
        if let Some(own) = between(&queries, first, next) {
            parts.push((own, seen.collect()));
        }
        first = next;
    }
    parts
}

/// The rows of a run at positions `start..end`, if there are any.
fn between(run: &Run, start: usize, end: usize) -> Option<Run> {
    let first = run.position.max(start);
    let end = end.min(run.position + run.len);
    (first < end).then(|| Run {
        row: run.row + first - run.position,
        len: end - first,
        position: first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every query with the rows of the keys that it sees, by the definition.
    fn seen(queries: Run, keys: &[Run], chunk: usize) -> Vec<(usize, Vec<usize>)> {
        let of = |i: usize| {
            let position = queries.position + i;
            let rows = keys.iter().flat_map(|k| (0..k.len).map(move |j| (k, j)));
            let same = rows.filter(|(k, j)| (k.position + j) / chunk == position / chunk);
            let seen = same.map(|(k, j)| k.row + j).collect();
            (queries.row + i, seen)
        };
        (0..queries.len).map(of).collect()
    }

    #[test]
    fn parts_see_the_keys_of_their_chunk() {
        let run = |row, len, position| Run { row, len, position };
        // a prompt, and a response behind it whose rows lie elsewhere
        let (prompt, response) = (run(0, 11, 0), run(40, 9, 11));
        for chunk in [1, 2, 4, 5, 11, 16, 20, 100, usize::MAX] {
            for (queries, keys) in [(prompt, vec![prompt]), (response, vec![prompt, response])] {
                let mut found = Vec::new();
                for (own, keys) in parts(queries, &keys, chunk) {
                    assert_eq!(own.position / chunk, (own.position + own.len - 1) / chunk);
                    let rows = keys.iter().flat_map(|k| k.row..k.row + k.len);
                    let rows: Vec<usize> = rows.collect();
                    found.extend((own.row..own.row + own.len).map(|row| (row, rows.clone())));
                }
                assert_eq!(found, seen(queries, &keys, chunk), "{chunk}");
            }
        }
    }
}
