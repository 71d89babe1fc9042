//! Regular expressions of byte-level pre-tokenizers, which split text into words. They do what
//! llama.cpp's do (release b11549), which is not always what the models' own do: llama.cpp takes
//! letters outside ASCII for capitals and small letters at once, and some of its classes do not
//! hold marks or white space that the models' hold. Names ending in `_IN_FOLDERS` are expressions
//! of the models' own `tokenizer.json`.
//!
//! All are written so that Oniguruma and fancy-regex, the two engines of the tokenizers library,
//! read them alike.

/// English contractions, whatever their case.
macro_rules! short {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// The same, or nothing.
macro_rules! short_perhaps {
    () => {
        concat!(short!(), "?")
    };
}

macro_rules! nothing {
    () => {
        ""
    };
}

/// Contractions as in models' own files.
pub(super) const SHORT_IN_FOLDERS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/// Contractions as in the expressions here.
pub(super) const SHORT: &str = short!();

/// Letters, with a sign or space before them.
macro_rules! word {
    () => {
        r"[^\r\n\p{L}\p{N}]?\p{L}+"
    };
}

/// Signs with a space before and line breaks after them.
macro_rules! signs {
    () => {
        r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    };
}

/// White space: line breaks, then all but the space before a word.
macro_rules! space {
    () => {
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Words that end where a capital follows a small letter: the classes of capitals and of small
/// letters, what may follow a word, digits.
macro_rules! cased {
    ($capital:literal, $small:literal, $end:ident, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $capital,
            "*",
            $small,
            "+",
            $end!(),
            r"|[^\r\n\p{L}\p{N}]?",
            $capital,
            "+",
            $small,
            "*",
            $end!(),
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|",
            space!()
        )
    };
}

/// Words of letters and marks, whatever their case: what llama.cpp makes of `cased`, where both
/// classes name Unicode's categories.
macro_rules! uncased {
    ($digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
            short!(),
            "?|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|",
            space!()
        )
    };
}

/// `cased` in models' own files.
macro_rules! cased_in_folders {
    ($end:ident, $digits:literal) => {
        cased!(
            r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
            r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
            $end,
            $digits
        )
    };
}

/// DeepSeek's: a sign joins the ASCII letters behind it, and marks are part of a word.
macro_rules! deepseek {
    () => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
        )
    };
}

pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern that many share.
pub(super) const LLAMA3: &str = concat!(
    short!(),
    "|",
    word!(),
    r"|\p{N}{1,3}|",
    signs!(),
    "|",
    space!()
);
pub(super) const QWEN2: &str = concat!(short!(), "|", word!(), r"|\p{N}|", signs!(), "|", space!());
pub(super) const DEEPSEEK3: &str = concat!(deepseek!(), r"[\r\n]*|", space!());
/// Chinese and Japanese.
pub(super) const CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Chinese and much more; llama.cpp takes no white space for part of it.
pub(super) const WIDE: &str = r"(?:(?!\s)[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}])+";
pub(super) const WIDE_IN_FOLDERS: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
/// Whatever is no white space, bracket, bar, full stop or comma of some scripts.
pub(super) const BLOOM: &str =
    " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
/// Digits in threes, counted from the last.
pub(super) const FROM_THE_LAST: &str = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";
/// Chinese characters as Kimi's are counted, by range.
macro_rules! han {
    () => {
        "\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{20000}-\\x{2a6df}\\x{2a700}-\\x{2ebef}\
         \\x{f900}-\\x{faff}\\x{2f800}-\\x{2fa1f}"
    };
}
/// Letters of scripts that have capitals.
pub(super) const CASED_SCRIPTS: &str = "\\s?[A-Za-z\
    \u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\
    \u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\
    \u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\
    \u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\
    \u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\
    \u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\
    \u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\
    \u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\
    \u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\
    \u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\
    \u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\
    \u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\
    \u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

/// Korean, signs of Chinese text, Chinese phonetic letters, Chinese and Japanese.
pub(super) const KOREAN_AND_SIGNS: &str = "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|\
    [\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\
    \u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|\
    [\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Scripts of Asia that are written without spaces.
pub(super) const ASIAN: &str = "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{8c48}-\u{faff}\
    \u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\
    \u{e40}-\u{e7f}\u{e80}-\u{eff}\
    \u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\
    \u{1100}-\u{11ff}]+";
/// Signs of ASCII, and those of Chinese text.
macro_rules! wide_signs {
    () => {
        "[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]"
    };
}

pub(super) const QWEN35: &str = concat!(
    short!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|",
    space!()
);
pub(super) const TEKKEN: &str = cased!(r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]", nothing, r"\p{N}");
pub(super) const TEKKEN_IN_FOLDERS: &str = cased_in_folders!(nothing, r"\p{N}");
pub(super) const GPT4O: &str = cased!(
    r"[\p{L}&&[^a-z]]",
    r"[\p{L}&&[^A-Z]]",
    short_perhaps,
    r"\p{N}{1,3}"
);
pub(super) const GPT4O_IN_FOLDERS: &str = cased_in_folders!(short_perhaps, r"\p{N}{1,3}");
/// `GPT4O` with marks among the letters.
pub(super) const GRANITE_97M: &str = cased!(
    r"[\p{L}\p{M}&&[^a-z]]",
    r"[\p{L}\p{M}&&[^A-Z]]",
    short_perhaps,
    r"\p{N}{1,3}"
);
pub(super) const TINY_AYA: &str = uncased!(r"\p{N}{1,3}");
pub(super) const YOUTU: &str = uncased!(r"\p{N}");
pub(super) const YOUTU_IN_FOLDERS: &str = cased_in_folders!(short_perhaps, r"\p{N}");
pub(super) const KIMI_K2: &str = concat!(
    "[",
    han!(),
    r"]+|[^\r\n\p{L}\p{N}]?(?:(?![",
    han!(),
    r"])\p{L})+",
    short!(),
    r"?|\p{N}{1,3}|",
    signs!(),
    "|",
    space!()
);
pub(super) const SPARK: &str = concat!(deepseek!(), r"|[\r\n]|\s+(?!\S)|\s+");
/// Llama.cpp takes the ideographic space for a space, not for a sign.
pub(super) const WIDE_SIGNS: &str = concat!(r"\s?(?:(?!\s)", wide_signs!(), ")+");
pub(super) const WIDE_SIGNS_IN_FOLDERS: &str = concat!(r"\s?", wide_signs!(), "+");
pub(super) const BAILING: &str = concat!(
    short!(),
    "|",
    word!(),
    r"|\p{N}|",
    signs!(),
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(super) const BAILING_IN_FOLDERS: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(super) const SEED_CODER: &str = concat!(
    short!(),
    "|",
    word!(),
    r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|",
    space!()
);
pub(super) const UFAKZEKA: &str = concat!(word!(), r"|\p{N}|", signs!(), "|", space!());
/// A word may go on over single spaces.
pub(super) const EXAONE_MOE: &str = concat!(
    short!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(super) const MINICPM5: &str =
    concat!(short!(), "|", word!(), r"|\p{N}+|", signs!(), "|", space!());
/// White space in powers of two.
pub(super) const JAIS2: &str = concat!(
    short!(),
    "|",
    word!(),
    r"|\p{N}{1,3}|",
    signs!(),
    r"|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)",
    r"|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
);
