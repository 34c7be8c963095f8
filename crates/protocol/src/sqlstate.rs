//! SQLSTATE codes.
//!
//! Owns [`SqlState`] and a constant for each code of Postgres documentation, appendix A (PostgreSQL Error Codes),
//! under its condition name there. Where the appendix uses a name twice, the constant says the class.

/// Five characters that say what went wrong, for programs rather than people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The code of these five characters.
    ///
    /// `None` unless all are digits or capital letters, as the SQL standard has it.
    #[must_use]
    pub fn new(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
            .then_some(Self(code))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // only digits and capitals come in, so this never falls back
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The five characters as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The first two characters, which name the class.
    #[must_use]
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SqlState({self})")
    }
}

macro_rules! states {
    ($($name:ident = $code:literal;)*) => {
        impl SqlState {
            $(
                #[doc = concat!("SQLSTATE ", stringify!($code), ".")]
                pub const $name: Self = Self(*$code);
            )*
        }

        #[cfg(test)]
        const ALL: &[SqlState] = &[$(SqlState::$name),*];
    };
}

states! {
    // class 00 - Successful Completion
    SUCCESSFUL_COMPLETION = b"00000";
    // class 01 - Warning
    WARNING = b"01000";
    DYNAMIC_RESULT_SETS_RETURNED = b"0100C";
    IMPLICIT_ZERO_BIT_PADDING = b"01008";
    NULL_VALUE_ELIMINATED_IN_SET_FUNCTION = b"01003";
    PRIVILEGE_NOT_GRANTED = b"01007";
    PRIVILEGE_NOT_REVOKED = b"01006";
    WARNING_STRING_DATA_RIGHT_TRUNCATION = b"01004";
    DEPRECATED_FEATURE = b"01P01";
    // class 02 - No Data (this is also a warning class per the SQL standard)
    NO_DATA = b"02000";
    NO_ADDITIONAL_DYNAMIC_RESULT_SETS_RETURNED = b"02001";
    // class 03 - SQL Statement Not Yet Complete
    SQL_STATEMENT_NOT_YET_COMPLETE = b"03000";
    // class 08 - Connection Exception
    CONNECTION_EXCEPTION = b"08000";
    CONNECTION_DOES_NOT_EXIST = b"08003";
    CONNECTION_FAILURE = b"08006";
    SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION = b"08001";
    SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION = b"08004";
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    PROTOCOL_VIOLATION = b"08P01";
    // class 09 - Triggered Action Exception
    TRIGGERED_ACTION_EXCEPTION = b"09000";
    // class 0A - Feature Not Supported
    FEATURE_NOT_SUPPORTED = b"0A000";
    // class 0B - Invalid Transaction Initiation
    INVALID_TRANSACTION_INITIATION = b"0B000";
    // class 0F - Locator Exception
    LOCATOR_EXCEPTION = b"0F000";
    INVALID_LOCATOR_SPECIFICATION = b"0F001";
    // class 0L - Invalid Grantor
    INVALID_GRANTOR = b"0L000";
    INVALID_GRANT_OPERATION = b"0LP01";
    // class 0P - Invalid Role Specification
    INVALID_ROLE_SPECIFICATION = b"0P000";
    // class 0Z - Diagnostics Exception
    DIAGNOSTICS_EXCEPTION = b"0Z000";
    STACKED_DIAGNOSTICS_ACCESSED_WITHOUT_ACTIVE_HANDLER = b"0Z002";
    // class 20 - Case Not Found
    CASE_NOT_FOUND = b"20000";
    // class 21 - Cardinality Violation
    CARDINALITY_VIOLATION = b"21000";
    // class 22 - Data Exception
    DATA_EXCEPTION = b"22000";
    ARRAY_SUBSCRIPT_ERROR = b"2202E";
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    DATETIME_FIELD_OVERFLOW = b"22008";
    DIVISION_BY_ZERO = b"22012";
    ERROR_IN_ASSIGNMENT = b"22005";
    ESCAPE_CHARACTER_CONFLICT = b"2200B";
    INDICATOR_OVERFLOW = b"22022";
    INTERVAL_FIELD_OVERFLOW = b"22015";
    INVALID_ARGUMENT_FOR_LOGARITHM = b"2201E";
    INVALID_ARGUMENT_FOR_NTILE_FUNCTION = b"22014";
    INVALID_ARGUMENT_FOR_NTH_VALUE_FUNCTION = b"22016";
    INVALID_ARGUMENT_FOR_POWER_FUNCTION = b"2201F";
    INVALID_ARGUMENT_FOR_WIDTH_BUCKET_FUNCTION = b"2201G";
    INVALID_CHARACTER_VALUE_FOR_CAST = b"22018";
    INVALID_DATETIME_FORMAT = b"22007";
    INVALID_ESCAPE_CHARACTER = b"22019";
    INVALID_ESCAPE_OCTET = b"2200D";
    INVALID_ESCAPE_SEQUENCE = b"22025";
    NONSTANDARD_USE_OF_ESCAPE_CHARACTER = b"22P06";
    INVALID_INDICATOR_PARAMETER_VALUE = b"22010";
    INVALID_PARAMETER_VALUE = b"22023";
    INVALID_PRECEDING_OR_FOLLOWING_SIZE = b"22013";
    INVALID_REGULAR_EXPRESSION = b"2201B";
    INVALID_ROW_COUNT_IN_LIMIT_CLAUSE = b"2201W";
    INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE = b"2201X";
    INVALID_TABLESAMPLE_ARGUMENT = b"2202H";
    INVALID_TABLESAMPLE_REPEAT = b"2202G";
    INVALID_TIME_ZONE_DISPLACEMENT_VALUE = b"22009";
    INVALID_USE_OF_ESCAPE_CHARACTER = b"2200C";
    MOST_SPECIFIC_TYPE_MISMATCH = b"2200G";
    NULL_VALUE_NOT_ALLOWED = b"22004";
    NULL_VALUE_NO_INDICATOR_PARAMETER = b"22002";
    NUMERIC_VALUE_OUT_OF_RANGE = b"22003";
    SEQUENCE_GENERATOR_LIMIT_EXCEEDED = b"2200H";
    STRING_DATA_LENGTH_MISMATCH = b"22026";
    STRING_DATA_RIGHT_TRUNCATION = b"22001";
    SUBSTRING_ERROR = b"22011";
    TRIM_ERROR = b"22027";
    UNTERMINATED_C_STRING = b"22024";
    ZERO_LENGTH_CHARACTER_STRING = b"2200F";
    FLOATING_POINT_EXCEPTION = b"22P01";
    INVALID_TEXT_REPRESENTATION = b"22P02";
    INVALID_BINARY_REPRESENTATION = b"22P03";
    BAD_COPY_FILE_FORMAT = b"22P04";
    UNTRANSLATABLE_CHARACTER = b"22P05";
    NOT_AN_XML_DOCUMENT = b"2200L";
    INVALID_XML_DOCUMENT = b"2200M";
    INVALID_XML_CONTENT = b"2200N";
    INVALID_XML_COMMENT = b"2200S";
    INVALID_XML_PROCESSING_INSTRUCTION = b"2200T";
    DUPLICATE_JSON_OBJECT_KEY_VALUE = b"22030";
    INVALID_ARGUMENT_FOR_SQL_JSON_DATETIME_FUNCTION = b"22031";
    INVALID_JSON_TEXT = b"22032";
    INVALID_SQL_JSON_SUBSCRIPT = b"22033";
    MORE_THAN_ONE_SQL_JSON_ITEM = b"22034";
    NO_SQL_JSON_ITEM = b"22035";
    NON_NUMERIC_SQL_JSON_ITEM = b"22036";
    NON_UNIQUE_KEYS_IN_A_JSON_OBJECT = b"22037";
    SINGLETON_SQL_JSON_ITEM_REQUIRED = b"22038";
    SQL_JSON_ARRAY_NOT_FOUND = b"22039";
    SQL_JSON_MEMBER_NOT_FOUND = b"2203A";
    SQL_JSON_NUMBER_NOT_FOUND = b"2203B";
    SQL_JSON_OBJECT_NOT_FOUND = b"2203C";
    TOO_MANY_JSON_ARRAY_ELEMENTS = b"2203D";
    TOO_MANY_JSON_OBJECT_MEMBERS = b"2203E";
    SQL_JSON_SCALAR_REQUIRED = b"2203F";
    SQL_JSON_ITEM_CANNOT_BE_CAST_TO_TARGET_TYPE = b"2203G";
    // class 23 - Integrity Constraint Violation
    INTEGRITY_CONSTRAINT_VIOLATION = b"23000";
    RESTRICT_VIOLATION = b"23001";
    NOT_NULL_VIOLATION = b"23502";
    FOREIGN_KEY_VIOLATION = b"23503";
    UNIQUE_VIOLATION = b"23505";
    CHECK_VIOLATION = b"23514";
    EXCLUSION_VIOLATION = b"23P01";
    // class 24 - Invalid Cursor State
    INVALID_CURSOR_STATE = b"24000";
    // class 25 - Invalid Transaction State
    INVALID_TRANSACTION_STATE = b"25000";
    ACTIVE_SQL_TRANSACTION = b"25001";
    BRANCH_TRANSACTION_ALREADY_ACTIVE = b"25002";
    HELD_CURSOR_REQUIRES_SAME_ISOLATION_LEVEL = b"25008";
    INAPPROPRIATE_ACCESS_MODE_FOR_BRANCH_TRANSACTION = b"25003";
    INAPPROPRIATE_ISOLATION_LEVEL_FOR_BRANCH_TRANSACTION = b"25004";
    NO_ACTIVE_SQL_TRANSACTION_FOR_BRANCH_TRANSACTION = b"25005";
    READ_ONLY_SQL_TRANSACTION = b"25006";
    SCHEMA_AND_DATA_STATEMENT_MIXING_NOT_SUPPORTED = b"25007";
    NO_ACTIVE_SQL_TRANSACTION = b"25P01";
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    // class 26 - Invalid SQL Statement Name
    INVALID_SQL_STATEMENT_NAME = b"26000";
    // class 27 - Triggered Data Change Violation
    TRIGGERED_DATA_CHANGE_VIOLATION = b"27000";
    // class 28 - Invalid Authorization Specification
    INVALID_AUTHORIZATION = b"28000";
    INVALID_PASSWORD = b"28P01";
    // class 2B - Dependent Privilege Descriptors Still Exist
    DEPENDENT_PRIVILEGE_DESCRIPTORS_STILL_EXIST = b"2B000";
    DEPENDENT_OBJECTS_STILL_EXIST = b"2BP01";
    // class 2D - Invalid Transaction Termination
    INVALID_TRANSACTION_TERMINATION = b"2D000";
    // class 2F - SQL Routine Exception
    SQL_ROUTINE_EXCEPTION = b"2F000";
    FUNCTION_EXECUTED_NO_RETURN_STATEMENT = b"2F005";
    SQL_ROUTINE_MODIFYING_SQL_DATA_NOT_PERMITTED = b"2F002";
    SQL_ROUTINE_PROHIBITED_SQL_STATEMENT_ATTEMPTED = b"2F003";
    SQL_ROUTINE_READING_SQL_DATA_NOT_PERMITTED = b"2F004";
    // class 34 - Invalid Cursor Name
    INVALID_CURSOR_NAME = b"34000";
    // class 38 - External Routine Exception
    EXTERNAL_ROUTINE_EXCEPTION = b"38000";
    CONTAINING_SQL_NOT_PERMITTED = b"38001";
    EXTERNAL_ROUTINE_MODIFYING_SQL_DATA_NOT_PERMITTED = b"38002";
    EXTERNAL_ROUTINE_PROHIBITED_SQL_STATEMENT_ATTEMPTED = b"38003";
    EXTERNAL_ROUTINE_READING_SQL_DATA_NOT_PERMITTED = b"38004";
    // class 39 - External Routine Invocation Exception
    EXTERNAL_ROUTINE_INVOCATION_EXCEPTION = b"39000";
    INVALID_SQLSTATE_RETURNED = b"39001";
    EXTERNAL_ROUTINE_INVOCATION_NULL_VALUE_NOT_ALLOWED = b"39004";
    TRIGGER_PROTOCOL_VIOLATED = b"39P01";
    SRF_PROTOCOL_VIOLATED = b"39P02";
    EVENT_TRIGGER_PROTOCOL_VIOLATED = b"39P03";
    // class 3B - Savepoint Exception
    SAVEPOINT_EXCEPTION = b"3B000";
    INVALID_SAVEPOINT_SPECIFICATION = b"3B001";
    // class 3D - Invalid Catalog Name
    INVALID_CATALOG_NAME = b"3D000";
    // class 3F - Invalid Schema Name
    INVALID_SCHEMA_NAME = b"3F000";
    // class 40 - Transaction Rollback
    TRANSACTION_ROLLBACK = b"40000";
    TRANSACTION_INTEGRITY_CONSTRAINT_VIOLATION = b"40002";
    SERIALIZATION_FAILURE = b"40001";
    STATEMENT_COMPLETION_UNKNOWN = b"40003";
    DEADLOCK_DETECTED = b"40P01";
    // class 42 - Syntax Error or Access Rule Violation
    SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION = b"42000";
    SYNTAX_ERROR = b"42601";
    INSUFFICIENT_PRIVILEGE = b"42501";
    CANNOT_COERCE = b"42846";
    GROUPING_ERROR = b"42803";
    WINDOWING_ERROR = b"42P20";
    INVALID_RECURSION = b"42P19";
    INVALID_FOREIGN_KEY = b"42830";
    INVALID_NAME = b"42602";
    NAME_TOO_LONG = b"42622";
    RESERVED_NAME = b"42939";
    DATATYPE_MISMATCH = b"42804";
    INDETERMINATE_DATATYPE = b"42P18";
    COLLATION_MISMATCH = b"42P21";
    INDETERMINATE_COLLATION = b"42P22";
    WRONG_OBJECT_TYPE = b"42809";
    GENERATED_ALWAYS = b"428C9";
    UNDEFINED_COLUMN = b"42703";
    UNDEFINED_FUNCTION = b"42883";
    UNDEFINED_TABLE = b"42P01";
    UNDEFINED_PARAMETER = b"42P02";
    UNDEFINED_OBJECT = b"42704";
    DUPLICATE_COLUMN = b"42701";
    DUPLICATE_CURSOR = b"42P03";
    DUPLICATE_DATABASE = b"42P04";
    DUPLICATE_FUNCTION = b"42723";
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    DUPLICATE_SCHEMA = b"42P06";
    DUPLICATE_TABLE = b"42P07";
    DUPLICATE_ALIAS = b"42712";
    DUPLICATE_OBJECT = b"42710";
    AMBIGUOUS_COLUMN = b"42702";
    AMBIGUOUS_FUNCTION = b"42725";
    AMBIGUOUS_PARAMETER = b"42P08";
    AMBIGUOUS_ALIAS = b"42P09";
    INVALID_COLUMN_REFERENCE = b"42P10";
    INVALID_COLUMN_DEFINITION = b"42611";
    INVALID_CURSOR_DEFINITION = b"42P11";
    INVALID_DATABASE_DEFINITION = b"42P12";
    INVALID_FUNCTION_DEFINITION = b"42P13";
    INVALID_PREPARED_STATEMENT_DEFINITION = b"42P14";
    INVALID_SCHEMA_DEFINITION = b"42P15";
    INVALID_TABLE_DEFINITION = b"42P16";
    INVALID_OBJECT_DEFINITION = b"42P17";
    // class 44 - WITH CHECK OPTION Violation
    WITH_CHECK_OPTION_VIOLATION = b"44000";
    // class 53 - Insufficient Resources
    INSUFFICIENT_RESOURCES = b"53000";
    DISK_FULL = b"53100";
    OUT_OF_MEMORY = b"53200";
    TOO_MANY_CONNECTIONS = b"53300";
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    // class 54 - Program Limit Exceeded
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    STATEMENT_TOO_COMPLEX = b"54001";
    TOO_MANY_COLUMNS = b"54011";
    TOO_MANY_ARGUMENTS = b"54023";
    // class 55 - Object Not In Prerequisite State
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    OBJECT_IN_USE = b"55006";
    CANT_CHANGE_RUNTIME_PARAM = b"55P02";
    LOCK_NOT_AVAILABLE = b"55P03";
    UNSAFE_NEW_ENUM_VALUE_USAGE = b"55P04";
    // class 57 - Operator Intervention
    OPERATOR_INTERVENTION = b"57000";
    QUERY_CANCELED = b"57014";
    ADMIN_SHUTDOWN = b"57P01";
    CRASH_SHUTDOWN = b"57P02";
    CANNOT_CONNECT_NOW = b"57P03";
    DATABASE_DROPPED = b"57P04";
    IDLE_SESSION_TIMEOUT = b"57P05";
    // class 58 - System Error (errors external to PostgreSQL itself)
    SYSTEM_ERROR = b"58000";
    IO_ERROR = b"58030";
    UNDEFINED_FILE = b"58P01";
    DUPLICATE_FILE = b"58P02";
    // class 72 - Snapshot Failure
    SNAPSHOT_TOO_OLD = b"72000";
    // class F0 - Configuration File Error
    CONFIG_FILE_ERROR = b"F0000";
    LOCK_FILE_EXISTS = b"F0001";
    // class HV - Foreign Data Wrapper Error (SQL/MED)
    FDW_ERROR = b"HV000";
    FDW_COLUMN_NAME_NOT_FOUND = b"HV005";
    FDW_DYNAMIC_PARAMETER_VALUE_NEEDED = b"HV002";
    FDW_FUNCTION_SEQUENCE_ERROR = b"HV010";
    FDW_INCONSISTENT_DESCRIPTOR_INFORMATION = b"HV021";
    FDW_INVALID_ATTRIBUTE_VALUE = b"HV024";
    FDW_INVALID_COLUMN_NAME = b"HV007";
    FDW_INVALID_COLUMN_NUMBER = b"HV008";
    FDW_INVALID_DATA_TYPE = b"HV004";
    FDW_INVALID_DATA_TYPE_DESCRIPTORS = b"HV006";
    FDW_INVALID_DESCRIPTOR_FIELD_IDENTIFIER = b"HV091";
    FDW_INVALID_HANDLE = b"HV00B";
    FDW_INVALID_OPTION_INDEX = b"HV00C";
    FDW_INVALID_OPTION_NAME = b"HV00D";
    FDW_INVALID_STRING_LENGTH_OR_BUFFER_LENGTH = b"HV090";
    FDW_INVALID_STRING_FORMAT = b"HV00A";
    FDW_INVALID_USE_OF_NULL_POINTER = b"HV009";
    FDW_TOO_MANY_HANDLES = b"HV014";
    FDW_OUT_OF_MEMORY = b"HV001";
    FDW_NO_SCHEMAS = b"HV00P";
    FDW_OPTION_NAME_NOT_FOUND = b"HV00J";
    FDW_REPLY_HANDLE = b"HV00K";
    FDW_SCHEMA_NOT_FOUND = b"HV00Q";
    FDW_TABLE_NOT_FOUND = b"HV00R";
    FDW_UNABLE_TO_CREATE_EXECUTION = b"HV00L";
    FDW_UNABLE_TO_CREATE_REPLY = b"HV00M";
    FDW_UNABLE_TO_ESTABLISH_CONNECTION = b"HV00N";
    // class P0 - PL/pgSQL Error
    PLPGSQL_ERROR = b"P0000";
    RAISE_EXCEPTION = b"P0001";
    NO_DATA_FOUND = b"P0002";
    TOO_MANY_ROWS = b"P0003";
    ASSERT_FAILURE = b"P0004";
    // class XX - Internal Error
    INTERNAL_ERROR = b"XX000";
    DATA_CORRUPTED = b"XX001";
    INDEX_CORRUPTED = b"XX002";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_constant_is_a_code_and_no_code_has_two_names() {
        let mut codes: Vec<SqlState> = ALL.to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
        for code in ALL {
            assert_eq!(SqlState::new(code.as_bytes()), Some(*code));
        }
    }

    #[test]
    fn what_is_not_five_digits_or_capitals_is_no_code() {
        for bad in [
            &b"0A00"[..],
            b"0A0000",
            b"0a000",
            b"0A00\0",
            b"\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(SqlState::new(bad), None);
        }
    }
}
