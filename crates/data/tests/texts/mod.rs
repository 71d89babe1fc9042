//! Thousands of texts on which tokenizers tend to differ, the same in every run.

/// Pieces of texts.
const PIECES: [&str; 40] = [
    "Hello",
    " world",
    "don't",
    "WE'LL",
    "'s",
    " 're",
    "1",
    "23",
    "4567890",
    " 3.14",
    "  ",
    "   ",
    " ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "!",
    "...",
    "?!",
    " -- ",
    "(x)",
    "{\"a\": 1}",
    "été",
    " Ünï",
    "練習",
    "乱取り",
    "привет",
    " שלום",
    "😀",
    "👨‍👩",
    "\u{200b}",
    "snake_case",
    "CamelCase",
    "http://a.b/c?d=e",
    "<|im_start|>",
    "</s>",
    "<s>",
    "aaaa",
    "the throw",
];

/// `n` texts of one to twelve pieces.
pub fn texts(n: usize) -> Vec<String> {
    let mut state = 0x5eed_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    (0..n)
        .map(|_| (0..=next(12)).map(|_| PIECES[next(PIECES.len())]).collect())
        .collect()
}
