//! Sizes in bytes as people write and read them.

/// More memory than a machine has: 64 TiB.
const MOST: u64 = 64 << 40;
/// More than any file has: 1 EiB.
const LARGEST: f64 = (1u64 << 60) as f64;
const TOO_LARGE: &str = "must be at most 1,048,576 TiB";

/// `5GB`, `500MB`, `2GiB`, `1000000`. A bare letter is a power of 1024, as in other tools: `24G`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1_048_576.0,
        "gib" | "g" => 1_073_741_824.0,
        "tib" | "t" => 1_099_511_627_776.0,
        _ => {
            return Err("must be a number and KB, MB, GB, TB, KiB, MiB, GiB or TiB: 5GB".into());
        }
    };
    match number.parse::<f64>() {
        Ok(n) if n * factor > LARGEST => Err(TOO_LARGE.into()),
        Ok(n) if n * factor >= 1.0 => Ok((n * factor) as u64),
        _ => Err("must be at least one byte: 5GB, 500MB".into()),
    }
}

/// Of memory: as [`parse`], but a number alone is GiB, as cards are named: `24`, `7.5`, `24GiB`.
pub fn memory(text: &str) -> Result<u64, String> {
    let alone = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let size = match alone {
        true => parse(&format!("{text}GiB")),
        false => parse(text),
    };
    let too_much = size
        .as_ref()
        .map_or_else(|e| e == TOO_LARGE, |size| *size > MOST);
    match (alone, too_much) {
        (_, false) => size,
        (true, true) => Err(format!(
            "a number alone is GiB, and {text} GiB are more than there are: give the unit, as in {text}B"
        )),
        (false, true) => Err(format!(
            "{text} is more memory than there is in one place: at most 64TiB"
        )),
    }
}

/// In the unit that suits `largest`: MiB, or GiB from 4 GiB on.
pub fn shown(bytes: u64, largest: u64) -> String {
    match largest < 4 << 30 {
        true => format!("{:.1}", bytes as f64 / 1_048_576.0),
        false => format!("{:.2}", bytes as f64 / 1_073_741_824.0),
    }
}

/// The unit that [`shown`] uses.
pub fn unit(largest: u64) -> &'static str {
    if largest < 4 << 30 { "MiB" } else { "GiB" }
}

/// With its own unit, whatever is beside it: `312 B`, `1.5 KiB`, `40.0 MiB`, `6.00 GiB`.
pub fn alone(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        // what would be rounded to 1024.0 is one of the next unit
        1024..1_048_525 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{} {}", shown(bytes, bytes), unit(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("500MB", 500_000_000),
            ("1.5gib", 1_610_612_736),
            ("200 kb", 200_000),
            ("77", 77),
            ("1TB", 1_000_000_000_000),
            ("2TiB", 2 << 40),
            ("24G", 24 << 30),
            ("24g", 24 << 30),
            ("512M", 512 << 20),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "GB", "5 apples", "-1GB", "1e9", "999999999999TB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_without_a_unit_is_in_gib() {
        for (text, bytes) in [
            ("24", 24 << 30),
            ("7.5", 15 << 29),
            ("24GiB", 24 << 30),
            ("24gb", 24_000_000_000),
            ("8000000000B", 8_000_000_000),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        let e = memory("8000000000").unwrap_err();
        assert!(e.contains("a number alone is GiB"), "{e}");
        let e = memory("65TiB").unwrap_err();
        assert!(e.contains("65TiB is more memory"), "{e}");
        assert_eq!(memory("64TiB"), Ok(64 << 40));
        for text in ["", "0", ".", "24 cards"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_unit_suits_the_largest() {
        assert_eq!(
            (shown(3 << 19, 1 << 20), unit(1 << 20)),
            ("1.5".into(), "MiB")
        );
        assert_eq!(
            (shown(6 << 30, 6 << 30), unit(6 << 30)),
            ("6.00".into(), "GiB")
        );
    }

    #[test]
    fn a_size_alone_has_the_unit_that_suits_it() {
        for (bytes, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_525, "1.0 MiB"),
            (40 << 20, "40.0 MiB"),
            (6 << 30, "6.00 GiB"),
        ] {
            assert_eq!(alone(bytes), said);
        }
    }
}
