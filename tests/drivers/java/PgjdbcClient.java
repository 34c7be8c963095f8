// pgjdbc, with statements named from their first execution: https://jdbc.postgresql.org/documentation/

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.Arrays;
import java.util.Properties;
import java.util.UUID;

import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.DriverInfo;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public final class PgjdbcClient {
    private static final int CLIENT = Integer.parseInt(System.getenv().getOrDefault("CLIENT", "0"));
    private static final String THINGS = "things_" + CLIENT;
    private static final String NOTES = "notes_" + CLIENT;

    private interface Part {
        void run() throws Exception;
    }

    private static void say(Object... values) {
        StringBuilder line = new StringBuilder();
        for (Object value : values) {
            String shown = value instanceof byte[] bytes ? Arrays.toString(bytes) : String.valueOf(value);
            line.append(line.isEmpty() ? "" : " ").append(shown.replace("\n", "\\n"));
        }
        System.out.println(line);
    }

    private static void part(String name, Part part) {
        say("part " + name);
        try {
            part.run();
        } catch (Exception error) {
            say("FAILED", error.getMessage());
            error.printStackTrace();
        }
    }

    private static void tried(Part part) throws Exception {
        try {
            part.run();
        } catch (SQLException error) {
            say(failure(error));
        }
    }

    private static String failure(SQLException error) {
        ServerErrorMessage message = error instanceof PSQLException of ? of.getServerErrorMessage() : null;
        if (message == null) {
            return error.getSQLState() + " " + error.getMessage();
        }
        return String.join(" | ", message.getSQLState(), message.getMessage(), message.getDetail(), message.getHint(), "" + message.getPosition(),
            message.getTable(), message.getConstraint());
    }

    private static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("prepareThreshold", "1");
        for (int index = 0; index < options.length; index += 2) {
            properties.setProperty(options[index], options[index + 1]);
        }
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    private static String rows(ResultSet result) throws SQLException {
        StringBuilder text = new StringBuilder();
        ResultSetMetaData meta = result.getMetaData();
        while (result.next()) {
            text.append('(');
            for (int column = 1; column <= meta.getColumnCount(); column++) {
                Object value = result.getObject(column);
                text.append(column > 1 ? ", " : "").append(value instanceof byte[] bytes ? Arrays.toString(bytes) : value);
            }
            text.append(')');
        }
        return text.toString();
    }

    private static String query(Connection connection, String text, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int index = 0; index < parameters.length; index++) {
                statement.setObject(index + 1, parameters[index]);
            }
            return statement.execute() ? rows(statement.getResultSet()) : "" + statement.getUpdateCount();
        }
    }

    private static void login() throws Exception {
        try (Connection connection = connect("ApplicationName", "client " + CLIENT, "options", "-c work_mem=" + (CLIENT + 1) + "MB")) {
            say(connection.getMetaData().getDatabaseProductVersion(), connection.getMetaData().getUserName());
            for (String name : new String[] {"application_name", "work_mem", "TimeZone", "DateStyle", "extra_float_digits", "client_encoding"}) {
                say(name, query(connection, "SHOW " + name));
            }
            connection.setClientInfo("ApplicationName", "renamed " + CLIENT);
            say(query(connection, "SHOW application_name"), connection.isValid(10));
        }
        tried(() -> connect("password", "wrong"));
        for (String kind : new String[] {"primary", "preferSecondary", "any"}) {
            try (Connection connection = connect("targetServerType", kind)) {
                say(kind, query(connection, "SELECT 1"));
            }
        }
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection connection = connect("preferQueryMode", mode)) {
                for (int turn = 0; turn < 7; turn++) {
                    say(mode, query(connection, "SELECT ?::int + " + CLIENT, turn));
                }
            }
        }
        try (Connection connection = connect("readOnly", "true", "readOnlyMode", "always")) {
            say(connection.isReadOnly(), query(connection, "SHOW transaction_read_only"));
        }
    }

    private static void values() throws Exception {
        try (Connection connection = connect(); Statement simple = connection.createStatement()) {
            simple.execute("CREATE TABLE " + THINGS + " (id bigint PRIMARY KEY, name text, small int2, middle int, single float4, double float8, exact numeric,"
                + " flag bool, bytes bytea, day date, moment timestamp, instant timestamptz, span interval, identity uuid, document jsonb, numbers int8[],"
                + " words text[])");
            try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO " + THINGS + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb, ?, ?)")) {
                Object[] row = {1L, "thing " + CLIENT, (short) 32767, -5, 1.5f, -2.25, new BigDecimal("12345678901234567890.123456789"), true,
                    new byte[] {0, -1, (byte) CLIENT}, java.time.LocalDate.of(2024, 2, 29), Timestamp.valueOf("1999-12-31 23:59:59.000001"),
                    java.time.OffsetDateTime.parse("2024-06-01T12:00:00Z"), new PGInterval("3 days 4 seconds"), new UUID(0, CLIENT),
                    "{\"client\": " + CLIENT + "}", connection.createArrayOf("int8", new Long[] {1L, null, 3L}),
                    connection.createArrayOf("text", new String[] {"a", "b\"", null})};
                for (int turn = 0; turn < 2; turn++) {
                    for (int index = 0; index < row.length; index++) {
                        insert.setObject(index + 1, turn == 0 ? row[index] : index == 0 ? 2L : null);
                    }
                    say(insert.executeUpdate());
                }
            }
            for (int turn = 0; turn < 9; turn++) {
                say(query(connection, "SELECT * FROM " + THINGS + " WHERE id = ?", turn % 3));
            }
            say(query(connection, "SELECT id, name FROM " + THINGS + " WHERE id = ANY (?)", connection.createArrayOf("int8", new Long[] {1L})));
        }
    }

    private static void prepared() throws Exception {
        try (Connection connection = connect("preparedStatementCacheQueries", "5")) {
            for (int turn = 0; turn < 40; turn++) {
                say(query(connection, "SELECT " + turn % 9 + " + ?, name FROM " + THINGS + " WHERE id = ?", turn, turn % 3));
            }
        }
        // after each error the driver goes back to a savepoint of its own
        try (Connection connection = connect("autosave", "always")) {
            connection.setAutoCommit(false);
            tried(() -> query(connection, "SELECT 1 / ?", 0));
            say(query(connection, "SELECT ?::int", CLIENT));
            connection.commit();
        }
    }

    private static void transactions() throws Exception {
        try (Connection connection = connect()) {
            String name = "SELECT name FROM " + THINGS + " WHERE id = ?";
            String rename = "UPDATE " + THINGS + " SET name = ? WHERE id = ?";
            connection.setAutoCommit(false);
            say(query(connection, rename, "kept", 1));
            connection.commit();
            query(connection, rename, "not kept", 1);
            connection.rollback();
            say(query(connection, name, 1));
            Savepoint savepoint = connection.setSavepoint("a");
            query(connection, rename, "not kept either", 1);
            tried(() -> query(connection, "SELECT 1 / ?", 0));
            tried(() -> query(connection, "SELECT 1"));
            connection.rollback(savepoint);
            say(query(connection, name, 1));
            connection.commit();
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            say(query(connection, "SHOW transaction_isolation"), query(connection, name, 1));
            connection.rollback();
            connection.setReadOnly(true);
            say(query(connection, "SHOW transaction_read_only"));
            connection.rollback();
            tried(() -> query(connection, rename, "read only", 1));
            connection.rollback();
            connection.setReadOnly(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            connection.setAutoCommit(true);
            say(query(connection, name, 1));
        }
    }

    private static void errors() throws Exception {
        try (Connection connection = connect()) {
            tried(() -> query(connection, "INSERT INTO " + THINGS + " (id) VALUES (?)", 1));
            tried(() -> query(connection, "SELECT nothing"));
            tried(() -> query(connection, "SELECT ?::int", "x"));
            tried(() -> query(connection, "SELECT 1; SELECT 1 / 0"));
            try (Statement statement = connection.createStatement()) {
                statement.execute("DROP TABLE IF EXISTS nowhere");
                say(statement.getWarnings().getMessage());
                for (boolean more = statement.execute("SELECT 1; SELECT 2, 3; SELECT 'x'"); more; more = statement.getMoreResults()) {
                    say(rows(statement.getResultSet()));
                }
            }
            say(query(connection, "SELECT ?::int", CLIENT));
        }
    }

    private static void batches() throws Exception {
        for (String rewrite : new String[] {"false", "true"}) {
            try (Connection connection = connect("reWriteBatchedInserts", rewrite)) {
                try (PreparedStatement batch = connection.prepareStatement("UPDATE " + THINGS + " SET middle = coalesce(middle, 0) + ? WHERE id = ?")) {
                    for (int turn = 0; turn < 300; turn++) {
                        batch.setInt(1, turn);
                        batch.setLong(2, 2);
                        batch.addBatch();
                    }
                    say(Arrays.stream(batch.executeBatch()).sum());
                }
                say(query(connection, "SELECT middle FROM " + THINGS + " WHERE id = ?", 2));
                try (PreparedStatement batch = connection.prepareStatement("INSERT INTO " + THINGS + " (id, name) VALUES (?, ?)")) {
                    for (int id = 2; id > 0; id--) {
                        batch.setLong(1, 2);
                        batch.setString(2, "again");
                        batch.addBatch();
                    }
                    try {
                        batch.executeBatch();
                    } catch (BatchUpdateException error) {
                        say(error.getSQLState(), Arrays.toString(error.getUpdateCounts()));
                    }
                }
                connection.setAutoCommit(false);
                try (PreparedStatement cursor = connection.prepareStatement("SELECT generate_series(1, ?)")) {
                    cursor.setFetchSize(10);
                    cursor.setInt(1, 95);
                    int sum = 0;
                    for (ResultSet result = cursor.executeQuery(); result.next(); ) {
                        sum += result.getInt(1);
                    }
                    say(sum);
                }
                connection.commit();
                connection.setAutoCommit(true);
                try (PreparedStatement insert = connection.prepareStatement(
                    "INSERT INTO " + THINGS + " (id, name) VALUES (?, 'returned')", Statement.RETURN_GENERATED_KEYS)) {
                    insert.setLong(1, "true".equals(rewrite) ? 10 : 11);
                    insert.executeUpdate();
                    say(rows(insert.getGeneratedKeys()));
                }
            }
        }
    }

    private static void metadata() throws Exception {
        try (Connection connection = connect()) {
            say(rows(connection.getMetaData().getColumns(null, "public", THINGS, "%")));
            say(rows(connection.getMetaData().getPrimaryKeys(null, "public", THINGS)));
            say(rows(connection.getMetaData().getTables(null, "public", THINGS, new String[] {"TABLE"})));
            try (PreparedStatement statement = connection.prepareStatement("SELECT id, name FROM " + THINGS + " WHERE id = ?")) {
                ResultSetMetaData meta = statement.getMetaData();
                say(meta.getColumnTypeName(1), meta.getColumnName(2), meta.isNullable(1), statement.getParameterMetaData().getParameterTypeName(1));
            }
        }
    }

    private static void copy() throws Exception {
        try (Connection connection = connect()) {
            query(connection, "CREATE TABLE " + NOTES + " (id int, words text)");
            CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int id = 0; id < 2000; id++) {
                lines.append(id).append("\tclient ").append(CLIENT).append('\n');
            }
            say(manager.copyIn("COPY " + NOTES + " FROM STDIN", new StringReader(lines.toString())));
            StringWriter output = new StringWriter();
            say(manager.copyOut("COPY (SELECT * FROM " + NOTES + " ORDER BY id) TO STDOUT (FORMAT csv)", output));
            say(output.toString().length(), output.toString().substring(0, 30));
            tried(() -> manager.copyIn("COPY " + NOTES + " FROM STDIN", new StringReader("x\ty\n")));
            say(query(connection, "SELECT count(*) FROM " + NOTES));
        }
    }

    private static void notifications() throws Exception {
        try (Connection listener = connect(); Connection sender = connect()) {
            query(listener, "LISTEN news_" + CLIENT);
            query(sender, "NOTIFY news_" + CLIENT + ", 'one of " + CLIENT + "'");
            query(sender, "SELECT pg_notify(?, ?)", "news_" + CLIENT, "two");
            int pid = sender.unwrap(PGConnection.class).getBackendPID();
            for (int heard = 0; heard < 2; ) {
                PGNotification[] notifications = listener.unwrap(PGConnection.class).getNotifications(30000);
                if (notifications == null) {
                    throw new IllegalStateException("nothing was heard");
                }
                for (PGNotification notification : notifications) {
                    say(notification.getName(), notification.getParameter(), notification.getPID() == pid);
                    heard++;
                }
            }
        }
    }

    private static void cancel() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            Thread thread = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (Exception error) {
                    error.printStackTrace();
                }
            });
            thread.start();
            tried(() -> statement.execute("SELECT pg_sleep(50)"));
            thread.join();
            say(query(connection, "SELECT ?::int", CLIENT));
            statement.setQueryTimeout(1);
            tried(() -> statement.execute("SELECT pg_sleep(50)"));
            say(query(connection, "SELECT ?::int", CLIENT));
        }
    }

    private static void settings() throws Exception {
        try (Connection connection = connect()) {
            query(connection, "SET work_mem = '" + (CLIENT + 1) + "MB'");
            query(connection, "SET search_path = pg_catalog, public");
            say(query(connection, "SHOW work_mem"), connection.getSchema());
            connection.setSchema("public");
            say(query(connection, "SHOW search_path"));
            query(connection, "RESET ALL");
            say(query(connection, "SHOW work_mem"), query(connection, "SHOW search_path"));
            query(connection, "SET work_mem = '77MB'");
            query(connection, "DISCARD ALL");
            say(query(connection, "SHOW DateStyle"), query(connection, "SELECT current_setting('work_mem')"));
        }
    }

    // a table changes under a statement that the driver and the server know
    private static void redefinitions() throws Exception {
        try (Connection connection = connect("autosave", "conservative")) {
            String text = "SELECT * FROM " + THINGS + " WHERE id = ?";
            say(query(connection, text, 1).length());
            query(connection, "ALTER TABLE " + THINGS + " ADD COLUMN more int");
            say(query(connection, text, 1).length());
            connection.setAutoCommit(false);
            say(query(connection, text, 1).length());
            query(connection, "ALTER TABLE " + THINGS + " DROP COLUMN more");
            connection.commit();
            say(query(connection, text, 1).length());
            connection.commit();
        }
    }

    // the driver sends BEGIN together with the first statement of a transaction
    private static void readsFirst() throws Exception {
        try (Connection connection = connect()) {
            query(connection, "UPDATE " + THINGS + " SET name = ? WHERE id = ?", "read", 1);
            // a replica may answer again
            Thread.sleep(500);
            connection.setAutoCommit(false);
            say(query(connection, "SELECT name FROM " + THINGS + " WHERE id = ?", 1));
            tried(() -> say(query(connection, "UPDATE " + THINGS + " SET name = ? WHERE id = ?", "written", 1)));
            connection.rollback();
        }
    }

    private static void cleanup() throws Exception {
        try (Connection connection = connect()) {
            query(connection, "DROP TABLE " + THINGS);
            query(connection, "DROP TABLE " + NOTES);
        }
    }

    public static void main(String[] arguments) {
        say("version pgjdbc", DriverInfo.DRIVER_VERSION);
        part("login", PgjdbcClient::login);
        part("values", PgjdbcClient::values);
        part("prepared", PgjdbcClient::prepared);
        part("transactions", PgjdbcClient::transactions);
        part("errors", PgjdbcClient::errors);
        part("batches", PgjdbcClient::batches);
        part("metadata", PgjdbcClient::metadata);
        part("copy", PgjdbcClient::copy);
        part("notifications", PgjdbcClient::notifications);
        part("cancel", PgjdbcClient::cancel);
        part("settings", PgjdbcClient::settings);
        part("reads first", PgjdbcClient::readsFirst);
        part("redefinitions", PgjdbcClient::redefinitions);
        part("cleanup", PgjdbcClient::cleanup);
    }
}
