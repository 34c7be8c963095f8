//! OIDs of built-in types, the same on every server.
//!
//! Owns the constants that pgherd itself speaks of, and where a user's own OIDs begin; never knows a catalog.

/// OIDs from here on are given out by each server as objects are made, and differ between shards.
pub const FIRST_USER_OID: u32 = 16_384;

macro_rules! types {
    ($($name:ident = $oid:literal, $size:literal;)*) => {
        $(
            #[doc = concat!("The type `", stringify!($name), "` (OID ", $oid, ").")]
            pub const $name: u32 = $oid;
        )*

        /// The size in bytes that RowDescription tells of a built-in type; -1 for one of varying length or one not listed here.
        #[must_use]
        pub const fn type_size(oid: u32) -> i16 {
            match oid {
                $($oid => $size,)*
                _ => -1,
            }
        }
    };
}

types! {
    BOOL = 16, 1;
    BYTEA = 17, -1;
    CHAR = 18, 1;
    NAME = 19, 64;
    INT8 = 20, 8;
    INT2 = 21, 2;
    INT2VECTOR = 22, -1;
    INT4 = 23, 4;
    REGPROC = 24, 4;
    TEXT = 25, -1;
    OID = 26, 4;
    TID = 27, 6;
    XID = 28, 4;
    CID = 29, 4;
    OIDVECTOR = 30, -1;
    JSON = 114, -1;
    XML = 142, -1;
    POINT = 600, 16;
    CIDR = 650, -1;
    FLOAT4 = 700, 4;
    FLOAT8 = 701, 8;
    UNKNOWN = 705, -2;
    MACADDR = 829, 6;
    INET = 869, -1;
    BOOL_ARRAY = 1000, -1;
    BYTEA_ARRAY = 1001, -1;
    INT2_ARRAY = 1005, -1;
    INT4_ARRAY = 1007, -1;
    TEXT_ARRAY = 1009, -1;
    BPCHAR_ARRAY = 1014, -1;
    VARCHAR_ARRAY = 1015, -1;
    INT8_ARRAY = 1016, -1;
    OID_ARRAY = 1028, -1;
    BPCHAR = 1042, -1;
    VARCHAR = 1043, -1;
    DATE = 1082, 4;
    TIME = 1083, 8;
    TIMESTAMP = 1114, 8;
    TIMESTAMP_ARRAY = 1115, -1;
    DATE_ARRAY = 1182, -1;
    TIMESTAMPTZ = 1184, 8;
    TIMESTAMPTZ_ARRAY = 1185, -1;
    INTERVAL = 1186, 16;
    NUMERIC_ARRAY = 1231, -1;
    TIMETZ = 1266, 12;
    BIT = 1560, -1;
    VARBIT = 1562, -1;
    NUMERIC = 1700, -1;
    REFCURSOR = 1790, -1;
    REGPROCEDURE = 2202, 4;
    REGOPER = 2203, 4;
    REGOPERATOR = 2204, 4;
    REGCLASS = 2205, 4;
    REGTYPE = 2206, 4;
    RECORD = 2249, -1;
    ANY = 2276, 4;
    ANYARRAY = 2277, -1;
    VOID = 2278, 4;
    RECORD_ARRAY = 2287, -1;
    UUID = 2950, 16;
    UUID_ARRAY = 2951, -1;
    PG_LSN = 3220, 8;
    REGCONFIG = 3734, 4;
    REGDICTIONARY = 3769, 4;
    JSONB = 3802, -1;
    JSONB_ARRAY = 3807, -1;
    INT4RANGE = 3904, -1;
    NUMRANGE = 3906, -1;
    TSRANGE = 3908, -1;
    TSTZRANGE = 3910, -1;
    DATERANGE = 3912, -1;
    INT8RANGE = 3926, -1;
    JSONPATH = 4072, -1;
    REGNAMESPACE = 4089, 4;
    REGROLE = 4096, 4;
    REGCOLLATION = 4191, 4;
    XID8 = 5069, 8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::Oid;

    #[test]
    fn every_built_in_type_lies_below_the_first_user_oid() {
        let oids: [Oid; 4] = [BOOL, UUID, JSONB_ARRAY, XID8];
        assert!(oids.iter().all(|oid| *oid < FIRST_USER_OID));
        assert_eq!(type_size(INT8), 8);
        assert_eq!(type_size(TEXT), -1);
        assert_eq!(type_size(99_999), -1);
    }
}
