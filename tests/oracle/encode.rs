//! Values in Postgres' binary formats.
//!
//! Main function: [`binary`].

/// A text as the binary form of a type, given by its OID; `None` where the text is none of that type or the type is not known here.
#[must_use]
pub fn binary(type_oid: u32, text: &str) -> Option<Vec<u8>> {
    Some(match type_oid {
        16 => vec![match text {
            "t" | "true" => 1,
            "f" | "false" => 0,
            _ => return None,
        }],
        21 => text.parse::<i16>().ok()?.to_be_bytes().to_vec(),
        23 => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
        20 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
        701 => text.parse::<f64>().ok()?.to_be_bytes().to_vec(),
        19 | 25 | 705 | 1042 | 1043 => text.as_bytes().to_vec(),
        1700 => numeric(text)?,
        2950 => {
            let digits: String = text.chars().filter(|c| *c != '-').collect();
            let number = u128::from_str_radix(&digits, 16).ok()?;
            (digits.len() == 32).then(|| number.to_be_bytes().to_vec())?
        }
        1082 => days(text)?.to_be_bytes().to_vec(),
        _ => return None,
    })
}

/// Digits of base 10,000, weight, sign and scale.
fn numeric(text: &str) -> Option<Vec<u8>> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (0x4000_u16, rest),
        None => (0, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty()
        || !(whole.to_owned() + fraction)
            .bytes()
            .all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let mut padded = "0".repeat((4 - whole.len() % 4) % 4) + whole + fraction;
    padded += &"0".repeat((4 - fraction.len() % 4) % 4);
    let mut weight = i16::try_from(whole.len().div_ceil(4)).ok()? - 1;
    let groups: Vec<u16> = padded
        .as_bytes()
        .chunks(4)
        .map(|group| group.iter().fold(0, |n, b| n * 10 + u16::from(b - b'0')))
        .collect();
    let first = groups.iter().take_while(|group| **group == 0).count();
    let last = groups.len() - groups.iter().rev().take_while(|group| **group == 0).count();
    let groups = groups.get(first..last).unwrap_or_default();
    weight = if groups.is_empty() {
        0
    } else {
        weight - i16::try_from(first).ok()?
    };
    let sign = if groups.is_empty() { 0 } else { sign };
    let mut out = Vec::new();
    out.extend_from_slice(&u16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::try_from(fraction.len()).ok()?.to_be_bytes());
    groups
        .iter()
        .for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Some(out)
}

/// Days since 2000-01-01, for `YYYY-MM-DD` from March 2000 on.
fn days(text: &str) -> Option<i32> {
    let mut parts = text.split('-').map(str::parse::<i32>);
    let (year, month, day) = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    if parts.next().is_some() || year < 2000 {
        return None;
    }
    // years that begin in March, so that the leap day is the last
    let (year, month) = if month > 2 {
        (year - 2000, month - 3)
    } else {
        (year - 2001, month + 9)
    };
    let from_march = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 60 days lie between 2000-01-01 and 2000-03-01
    Some(60 + from_march + (153 * month + 2) / 5 + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_postgres_sends_them() {
        assert_eq!(numeric("0"), Some(vec![0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(
            numeric("12345.5"),
            Some(vec![0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 9, 41, 19, 136])
        );
        assert_eq!(
            numeric("-0.5"),
            Some(vec![0, 1, 255, 255, 64, 0, 0, 1, 19, 136])
        );
        assert_eq!(numeric("x"), None);
    }

    #[test]
    fn dates_count_from_the_year_2000() {
        assert_eq!(days("2000-01-01"), Some(0));
        assert_eq!(days("2000-03-01"), Some(60));
        assert_eq!(days("2024-02-29"), Some(8825));
    }
}
