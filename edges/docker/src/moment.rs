//! The engine's times, as RFC 3339 writes them.

/// Returns the seconds from 1970 on of `2026-11-26T19:12:02.123456789Z`; none where it is no such time in UTC.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        text.split(by).map(|number| number.parse().ok()).collect()
    };
    let date = numbers(date, '-')?;
    let time = numbers(time.split('.').next()?, ':')?;
    let ([year, month, day], [hour, minute, second]) = (date.as_slice(), time.as_slice()) else {
        return None;
    };
    // Counted from March on, so that the leap day is the last of its year.
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_counted_from_1970_on() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-03-01T00:00:01.5Z"), Some(951_868_801));
        assert_eq!(seconds("2024-02-29T23:59:59.123456789Z"), Some(1_709_251_199));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), Some(-62_135_596_800));
        assert_eq!(seconds("yesterday"), None);
    }
}
