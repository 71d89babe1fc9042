//! Sequences that come and go in one decode loop, each with a player, samplers and limits of its
//! own: what a server answers with. Players share the base and the cache; a step is one pass for
//! each player that has something to do.

use std::sync::Arc;

use randori_kernels::{Error, Result};
use randori_sdk::seam::SamplerFn;

use super::{GenerateOptions, Generation, Sequence, draw, pieces};
use crate::{KvCache, Player, SlotTokens, player::weights::Gains};

/// One sequence that is wanted.
pub struct Asked {
    /// Which of the batch's players answers.
    pub player: usize,
    /// Token ids, at least one, fewer than the window.
    pub prompt: Vec<u32>,
    /// As [`super::generate`] takes them.
    pub samplers: Vec<Arc<dyn SamplerFn>>,
    /// As there; `slots` is not read.
    pub options: GenerateOptions,
    /// How many of the likeliest tokens are told beside each that is drawn.
    pub top: usize,
}

/// What the model thought at one place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Likely {
    /// Log-prob of the token that stands there, under the model itself.
    pub logp: f64,
    /// The likeliest tokens with theirs, the likeliest first; of equal ones the lower id.
    pub top: Vec<(u32, f64)>,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// How likely it was, and what else was.
    pub likely: Likely,
    /// The sequence is over: `true` by this stop token, `false` by a limit.
    pub last: Option<bool>,
}

/// The slots.
pub struct Batch {
    players: Vec<Player>,
    /// DoRA's, by player: the cache has those of the player that steps.
    gains: Vec<Arc<Gains>>,
    cache: KvCache,
    places: Vec<Option<Place>>,
}

struct Place {
    asked: Asked,
    sequence: Sequence,
}

impl Batch {
    /// So many empty slots of at most `room` tokens for these players, who have one base.
    ///
    /// # Errors
    /// No player, or no slot.
    pub fn new(players: Vec<Player>, slots: usize, room: usize) -> Result<Batch> {
        let Some(first) = players.first().filter(|_| slots > 0) else {
            return Err(Error::rule("a batch wants a player and a slot"));
        };
        if players.iter().any(|p| !Arc::ptr_eq(&p.base, &first.base)) {
            return Err(Error::rule("the players of a batch must share their base"));
        }
        Ok(Batch {
            cache: KvCache::with_room(first, &vec![room; slots]),
            gains: players.iter().map(|_| Arc::default()).collect(),
            places: std::iter::repeat_with(|| None).take(slots).collect(),
            players,
        })
    }

    /// Whether no slot has a sequence.
    pub fn is_idle(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }

    /// A slot without a sequence.
    pub fn free_slot(&self) -> Option<usize> {
        self.places.iter().position(Option::is_none)
    }

    /// Gives up a slot's sequence.
    pub fn leave(&mut self, slot: usize) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = None;
            self.cache.clear(slot);
        }
    }

    /// Puts a sequence into a free slot, which it answers.
    ///
    /// # Errors
    /// No free slot, a player that is not there, or what [`super::generate`] refuses.
    pub fn enter(&mut self, asked: Asked) -> Result<usize> {
        let Some(slot) = self.free_slot() else {
            return Err(Error::rule("no slot is free"));
        };
        let asked = self.checked(asked)?;
        self.cache.clear(slot);
        self.cache.expect(slot, asked.prompt.len() + 1);
        let sequence = Sequence::new(0, &asked.prompt, &asked.samplers);
        self.places[slot] = Some(Place { asked, sequence });
        Ok(slot)
    }

    /// Reads a prompt without a slot: what the model thought at each of its tokens but the first.
    /// Where one token is wanted after it, that is drawn, too.
    ///
    /// # Errors
    /// As [`Batch::enter`], or the engine's own.
    pub fn read(&self, asked: &Asked) -> Result<(Vec<Likely>, Option<Token>)> {
        let player = self.player(asked.player)?;
        let border = player.border();
        let mut found = Vec::with_capacity(asked.prompt.len());
        let mut drawn = None;
        // behind a border the next token's place decides how all are rotated
        let draws = asked.options.max_new_tokens == 1 && border.is_none();
        player.each_row(&asked.prompt, &mut |row, logits| {
            match asked.prompt.get(row + 1) {
                Some(&next) => found.push(likely(logits, next, asked.top)?),
                None if draws => {
                    let mut sequence = Sequence::new(0, &asked.prompt, &asked.samplers);
                    drawn = Some(next(&mut sequence, asked, logits)?);
                }
                None => {}
            }
            Ok(())
        })?;
        Ok((found, drawn))
    }

    /// Goes on with every sequence; answers the tokens that were drawn, by slot. A sequence that
    /// ends or fails leaves its slot.
    pub fn step(&mut self) -> Vec<(usize, Result<Token>)> {
        let mut told = Vec::new();
        for player in 0..self.players.len() {
            let before = told.len();
            if let Err(e) = self.step_of(player, &mut told) {
                told.truncate(before);
                let own = |place: &Option<Place>| {
                    place.as_ref().is_some_and(|p| p.asked.player == player)
                };
                let slots = (0..self.places.len()).filter(|&slot| own(&self.places[slot]));
                told.extend(slots.map(|slot| (slot, Err(Error::rule(e.to_string())))));
            }
        }
        for (slot, token) in &told {
            if !matches!(token, Ok(Token { last: None, .. })) {
                self.leave(*slot);
            }
        }
        told
    }

    fn step_of(&mut self, player: usize, told: &mut Vec<(usize, Result<Token>)>) -> Result<()> {
        let own = self.places.iter().map(|place| {
            let place = place.as_ref().filter(|p| p.asked.player == player)?;
            Some(&place.sequence)
        });
        let takes = pieces(own);
        let mut batch = Vec::new();
        for (slot, (place, &take)) in self.places.iter().zip(&takes).enumerate() {
            if let Some(place) = place.as_ref().filter(|_| take > 0) {
                let s = &place.sequence;
                let tokens = &s.tokens[s.cached..s.cached + take];
                batch.push(SlotTokens { slot, tokens });
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.cache.gains = self.gains[player].clone();
        let logits = self.players[player].step(&mut self.cache, &batch)?;
        let (rows, vocab) = logits.dims2()?;
        if rows != batch.len() || vocab == 0 {
            return Err(Error::rule(format!(
                "the model answered {rows} rows of {vocab} logits for {} sequences",
                batch.len()
            )));
        }
        let slots: Vec<usize> = batch.iter().map(|entry| entry.slot).collect();
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        for (slot, row) in slots.into_iter().zip(logits.chunks_exact(vocab)) {
            let Some(Place { asked, sequence }) = &mut self.places[slot] else {
                continue;
            };
            sequence.cached += takes[slot];
            // the rows of a prompt's earlier pieces predict what is known already
            if sequence.cached == sequence.tokens.len() {
                told.push((slot, next(sequence, asked, row)));
            }
        }
        Ok(())
    }

    fn player(&self, number: usize) -> Result<&Player> {
        let player = self.players.get(number);
        player.ok_or_else(|| Error::rule(format!("there is no player {number}")))
    }

    /// What was asked, with the border of its player's architecture.
    fn checked(&self, mut asked: Asked) -> Result<Asked> {
        asked.options.border = self.player(asked.player)?.border();
        super::check(std::slice::from_ref(&asked.prompt), &asked.options)?;
        match asked.options.room(asked.prompt.len()) {
            0 => Err(Error::rule("no token is wanted after the prompt")),
            _ => Ok(asked),
        }
    }
}

/// Draws a sequence's next token.
fn next(sequence: &mut Sequence, asked: &Asked, row: &[f32]) -> Result<Token> {
    let options = &asked.options;
    sequence.extend(row, &asked.samplers, options)?;
    let Generation { tokens, ended, .. } = &sequence.out;
    let id = tokens.last().copied().unwrap_or_default();
    let full = tokens.len() >= options.room(sequence.prompt);
    Ok(Token {
        id,
        likely: likely(row, id, asked.top)?,
        last: (*ended || full).then_some(*ended),
    })
}

/// How likely `token` was by a row of logits, and the `top` likeliest.
fn likely(row: &[f32], token: u32, top: usize) -> Result<Likely> {
    let Some(own) = row.get(token as usize) else {
        return Err(Error::rule(format!(
            "token {token} must be below {}, the model's vocabulary",
            row.len()
        )));
    };
    if let Some(i) = row.iter().position(|logit| !logit.is_finite()) {
        return Err(Error::rule(format!(
            "the model's logit of token {i} is {}, not a finite number",
            row[i]
        )));
    }
    let sum = draw::log_sum_exp(row);
    let mut best: Vec<(u32, f64)> = Vec::with_capacity(top + 1);
    for (id, &logit) in row.iter().enumerate() {
        let logit = f64::from(logit);
        let worst = best.last().map_or(f64::NEG_INFINITY, |b| b.1);
        if top == 0 || (best.len() == top && logit <= worst) {
            continue;
        }
        let at = best.partition_point(|b| b.1 >= logit);
        best.insert(at, (id as u32, logit));
        best.truncate(top);
    }
    for (_, logit) in &mut best {
        *logit -= sum;
    }
    Ok(Likely {
        logp: f64::from(*own) - sum,
        top: best,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_in_order_and_by_the_same_sum() {
        // p = 1, 3, 4, 4 of 12
        let row = [1.0f32.ln(), 3.0f32.ln(), 4.0f32.ln(), 4.0f32.ln()];
        let found = likely(&row, 3, 3).unwrap();
        let ids: Vec<u32> = found.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [2, 3, 1]);
        for ((_, logp), p) in found.top.iter().zip([4.0, 4.0, 3.0]) {
            assert!((logp - f64::ln(p / 12.0)).abs() < 1e-6);
        }
        assert_eq!(found.logp, found.top[0].1); // whoever is as likely has the same number
        assert!(likely(&row, 0, 0).unwrap().top.is_empty());
        assert!(likely(&row, 4, 1).is_err());
        assert!(likely(&[f32::NAN, 0.0], 0, 1).is_err());
    }
}
