//! Values of every key type: edges by hand, the rest by a generator with a fixed seed.

use pgherd_topology::KeyType;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Of any magnitude.
    fn number(&mut self) -> i64 {
        let shift = self.below(64);
        self.next() as i64 >> shift
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn digits(&mut self, most: usize) -> String {
        let length = self.below(most + 1);
        (0..length)
            .map(|_| self.pick(&['0', '0', '1', '5', '9', '3']))
            .collect()
    }
}

#[rustfmt::skip]
const EDGES: [i64; 17] = [
    0, 1, -1, 2, 9, 10, 127, -128, 32767, -32768, 65536, 2147483647, -2147483648, 2147483648,
    -2147483649, i64::MAX, i64::MIN,
];

/// Text to be read as the type; some of it is not valid, or not certain, and must be refused.
pub fn texts(key_type: KeyType) -> Vec<String> {
    let mut random = Random(key_type.oid().into());
    let make: fn(&mut Random) -> String = match key_type {
        KeyType::Int2 => |random| (random.number() as i16).to_string(),
        KeyType::Int4 => |random| (random.number() as i32).to_string(),
        KeyType::Int8 => |random| random.number().to_string(),
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => text,
        KeyType::Uuid => uuid,
        KeyType::Bytea => bytea,
        KeyType::Date => date,
        KeyType::Timestamp => timestamp,
        KeyType::Timestamptz => timestamptz,
        KeyType::Numeric => numeric,
        KeyType::Boolean => return booleans(),
    };
    let mut texts: Vec<String> = (0..4000).map(|_| make(&mut random)).collect();
    texts.extend(edges(key_type).iter().map(|&edge| edge.to_owned()));
    if matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8) {
        texts.extend(spelled_integers());
    }
    texts
}

#[rustfmt::skip]
fn edges(key_type: KeyType) -> &'static [&'static str] {
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Boolean => &[],
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => &[
            "", " ", "  a", "a ", "a\t", "a\n", "a\u{a0}", "größe", "I", "ı", "İ", "'", "\\", "é", "e\u{301}",
        ],
        KeyType::Uuid => &[
            "00000000-0000-0000-0000-000000000000", "ffffffffffffffffffffffffffffffff", "{}", "",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ", "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-", "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
        ],
        KeyType::Bytea => &[
            "", "\\x", "\\x0", "\\xg0", "\\x 00 ff\n0a\t", "\\x0 0", "\\X00", "\\\\", "\\", "\\000",
            "\\377", "\\400", "\\08", "abc", "a b", "é", "x00", " \\x00",
        ],
        KeyType::Date => &[
            "infinity", "-infinity", "INFINITY", "4714-11-24 BC", "4714-11-23 BC", "5874897-12-31",
            "5874898-01-01", "0001-01-01", "0001-01-01 BC", "0000-01-01", "2000-02-29", "1900-02-29",
            "0099-12-31", "9999-12-31", "10000-01-01", "123456-07-08", "0020-03-04", " 2026-01-02 ",
            "today", "epoch", "1/2/2026", "2026-1-2", "20260102", "2026-01-02 12:00", "0012026-01-02",
        ],
        KeyType::Timestamp => &[
            "infinity", "-infinity", "4714-11-24 00:00:00 BC", "4714-11-23 23:59:59 BC",
            "294276-12-31 23:59:59.999999", "294277-01-01 00:00:00", "2000-01-01", "2000-01-01T00:00",
            "1999-12-31 23:59:59.999999", "2000-01-01 24:00:00", "2000-01-01 00:00:60", "now",
            "2000-01-01 00:00:00+05", "2000-01-01 00:00:00.1234567", "0001-01-01 00:00:00 BC",
            "2000-01-01 BC", "2000-01-01 1:00", "\t2000-01-01 01:00\n",
        ],
        KeyType::Timestamptz => &[
            "infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "4714-11-24 00:00:00+01 BC",
            "4714-11-24 15:59:59-15:59:59 BC", "4714-11-24 23:59:59+15:59:59 BC",
            "294276-12-31 23:59:59.999999Z", "294276-12-31 23:59:59.999999-15:59:59",
            "294276-12-31 23:59:59.999999+15:59:59", "294277-01-01 00:00:00+15",
            "294277-01-01 00:00:00Z", "2000-01-01 00:00:00", "2000-01-01 00:00:00 CET",
            "2000-01-01 00:00:00 America/New_York", "2000-01-01 00:00:00+16", "2000-01-01 00:00Z",
            "2000-01-01 00:00:00-00", "2000-01-01 00:00:00+0000", "2000-01-01 00:00:00+1",
            "2000-01-01 00:00:00+123", "2000-01-01 00:00:00z", "2000-01-01 00:00:00 +05", "2000-01-01",
        ],
        KeyType::Numeric => &[
            "0", "-0", "0.0000", "NaN", "nan", "inf", "-inf", "+Infinity", "-INFINITY", "infinit", "+NaN",
            "1e131071", "1e131072", "9.9e131071", "1e-16383", "1e-16384", "0e-16383", "0e-16384",
            "0e400000", "0e131072", "1e", "1e+", ".", "", "1.", ".5", "+.5", "-5.", "1_000", "0x10", "1e 5",
            "10000", "9999", "99999999", "100000000", "0.0001", "0.00001", "0.00010", "1e4", "1e-4", "1e-5",
            "12345678901234567890123456789012345678901234567890.000100020003",
        ],
    }
}

/// Forms of whole numbers that are read, and some that are not.
fn spelled_integers() -> Vec<String> {
    let mut texts = Vec::new();
    for edge in EDGES {
        let sign = if edge < 0 { "-" } else { "" };
        texts.extend([
            edge.to_string(),
            format!(" \t{edge}\n"),
            format!("\u{b}\u{c}{edge}\r"),
            format!("{sign}00{}", edge.unsigned_abs()),
        ]);
        if edge >= 0 {
            texts.push(format!("+{edge}"));
        }
    }
    #[rustfmt::skip]
    let refused = [
        "", "-", "+", "--1", "+-1", "1.0", "1e3", "0x10", "0b1", "0o7", "1_000", "- 1", "1 2", "a",
        "9223372036854775808", "-9223372036854775809", "99999999999999999999999", "\u{a0}1", "１",
    ];
    texts.extend(refused.map(str::to_owned));
    texts
}

fn text(random: &mut Random) -> String {
    let length = match random.below(20) {
        0 => 300,
        _ => random.below(40),
    };
    #[rustfmt::skip]
    let alphabet = ['a', 'b', 'Z', ' ', ' ', '0', '\'', '\\', 'ß', 'é', '日', '🐘', '\n', '-'];
    (0..length).map(|_| random.pick(&alphabet)).collect()
}

fn uuid(random: &mut Random) -> String {
    let mut text = String::new();
    let hyphens = random.below(3);
    for index in 0..16 {
        let byte = random.next() as u8;
        text += &match random.below(2) {
            0 => format!("{byte:02x}"),
            _ => format!("{byte:02X}"),
        };
        let hyphen = match hyphens {
            0 => matches!(index, 3 | 5 | 7 | 9),
            1 => index % 2 == 1 && index < 15 && random.below(2) == 0,
            _ => false,
        };
        if hyphen {
            text.push('-');
        }
    }
    match random.below(4) {
        0 => format!("{{{text}}}"),
        _ => text,
    }
}

fn bytea(random: &mut Random) -> String {
    let bytes = random.bytes(40);
    match random.below(3) {
        0 => bytes
            .iter()
            .fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        1 => bytes.iter().fold("\\x".to_owned(), |text, byte| {
            format!("{text}{byte:02X}{}", [" ", "", "\n"][usize::from(byte % 3)])
        }),
        _ => bytes.iter().fold(String::new(), |text, &byte| match byte {
            b'\\' => text + "\\\\",
            b' '..=b'~' => format!("{text}{}", char::from(byte)),
            byte => format!("{text}\\{byte:03o}"),
        }),
    }
}

fn day(random: &mut Random, greatest: usize) -> String {
    let year = match random.below(4) {
        0 => random.below(greatest) + 1,
        1 => random.below(4713) + 1,
        _ => random.below(400) + 1800,
    };
    let (month, day) = (random.below(12) + 1, random.below(31) + 1);
    format!("{year:04}-{month:02}-{day:02}")
}

fn era(random: &mut Random) -> &'static str {
    random.pick(&["", "", "", "", " BC"])
}

fn date(random: &mut Random) -> String {
    day(random, 5_874_897) + era(random)
}

fn time(random: &mut Random) -> String {
    let separator = random.pick(&["T", " "]);
    let minutes = format!("{separator}{:02}:{:02}", random.below(24), random.below(60));
    let seconds = random.below(60);
    match random.below(4) {
        0 => minutes,
        1 => format!("{minutes}:{seconds:02}"),
        _ => {
            let fraction = format!("{:06}", random.below(1_000_000));
            let digits = random.below(6) + 1;
            format!("{minutes}:{seconds:02}.{}", &fraction[..digits])
        }
    }
}

fn timestamp(random: &mut Random) -> String {
    day(random, 294_276) + &time(random) + era(random)
}

fn timestamptz(random: &mut Random) -> String {
    let sign = random.pick(&["+", "-"]);
    let hours = format!("{sign}{:02}", random.below(16));
    let (minutes, seconds) = (random.below(60), random.below(60));
    let offset = match random.below(5) {
        0 => "Z".to_owned(),
        1 => hours,
        2 => format!("{hours}{minutes:02}"),
        3 => format!("{hours}:{minutes:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    };
    day(random, 294_276) + &time(random) + &offset + era(random)
}

fn numeric(random: &mut Random) -> String {
    let sign = random.pick(&["", "-", "+"]);
    let whole = random.digits(24);
    let fraction = random.digits(18);
    let point = match fraction.is_empty() {
        true => random.pick(&["", "."]),
        false => ".",
    };
    let exponent = match random.below(4) {
        0 => format!("e{}", random.below(300)),
        1 => format!("E-{}", random.below(300)),
        2 => format!("e+{}", random.below(12)),
        _ => String::new(),
    };
    format!("{sign}{whole}{point}{fraction}{exponent}")
}

fn booleans() -> Vec<String> {
    let mut texts = Vec::new();
    #[rustfmt::skip]
    let words = ["true", "false", "yes", "no", "on", "off", "1", "0", "truex", "2", "10", "ony"];
    for word in words {
        for end in 0..=word.len() {
            let text = &word[..end];
            texts.extend([text.to_owned(), text.to_uppercase()]);
            texts.extend([format!(" {text}\n"), format!("{text}x")]);
        }
    }
    texts
}

/// Values in the binary format; some are not valid and must be refused.
pub fn binaries(key_type: KeyType) -> Vec<Vec<u8>> {
    let mut random = Random(u64::from(key_type.oid()) << 32);
    let mut values: Vec<Vec<u8>> = (0..4000).map(|_| binary(key_type, &mut random)).collect();
    values.extend([vec![], vec![0], vec![0; 3], vec![0; 9], vec![255; 17]]);
    for edge in EDGES {
        let width = match key_type {
            KeyType::Int2 => 2,
            KeyType::Int4 | KeyType::Date => 4,
            _ => 8,
        };
        values.push(edge.to_be_bytes()[8 - width..].to_vec());
    }
    #[rustfmt::skip]
    let bounds: [i64; 10] = [
        -2_451_546, -2_451_545, 2_145_031_948, 2_145_031_949, -211_813_488_000_000_000,
        -211_813_488_000_000_001, 9_223_371_331_199_999_999, 9_223_371_331_200_000_000,
        i32::MIN as i64, i32::MAX as i64,
    ];
    for bound in bounds {
        values.push((bound as i32).to_be_bytes().to_vec());
        values.push(bound.to_be_bytes().to_vec());
    }
    values
}

fn binary(key_type: KeyType, random: &mut Random) -> Vec<u8> {
    match key_type {
        KeyType::Int2 => (random.number() as i16).to_be_bytes().to_vec(),
        KeyType::Int4 => (random.number() as i32).to_be_bytes().to_vec(),
        KeyType::Int8 => random.number().to_be_bytes().to_vec(),
        KeyType::Date => (random.number() as i32).to_be_bytes().to_vec(),
        KeyType::Timestamp | KeyType::Timestamptz => random.number().to_be_bytes().to_vec(),
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => text(random).into_bytes(),
        KeyType::Bytea => random.bytes(60),
        KeyType::Uuid => (0..16).map(|_| random.next() as u8).collect(),
        KeyType::Boolean => vec![random.next() as u8],
        KeyType::Numeric => {
            let count = random.below(8);
            let weight = random.below(12) as i16 - 6;
            let sign: u16 = random.pick(&[0, 0x4000, 0, 0x4000, 0xC000, 0xD000, 0xF000, 0x1000]);
            let scale = random.below(24) as u16;
            let mut bytes = Vec::new();
            for field in [count as u16, weight as u16, sign, scale] {
                bytes.extend(field.to_be_bytes());
            }
            for _ in 0..count {
                let digit: u16 = random.pick(&[0, 0, 1, 5000, 1234, 9999, 10, 1200]);
                bytes.extend(digit.to_be_bytes());
            }
            bytes
        }
    }
}
