package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** Splits a SQL script at its semicolons. */
final class SqlScript {
    // One job is made of all INSERTs anyway, so the brackets around them say nothing more.
    private static final Pattern BEGIN =
            Pattern.compile("^EXECUTE\\s+STATEMENT\\s+SET\\s+BEGIN\\s+", Pattern.CASE_INSENSITIVE);
    private static final Pattern END = Pattern.compile("END", Pattern.CASE_INSENSITIVE);

    private SqlScript() {}

    /**
     * The statements of a script, without semicolons, comments and EXECUTE STATEMENT SET BEGIN … END.
     *
     * <p>A semicolon inside '…', `…` or a comment ends nothing.
     */
    static List<String> split(String script) {
        List<String> statements = new ArrayList<>();
        StringBuilder statement = new StringBuilder();
        int at = 0;
        while (at < script.length()) {
            char sign = script.charAt(at);
            int next = at + 1;
            if (sign == '\'' || sign == '`') {
                // A doubled quote ends one literal and begins the next, which splits nothing either.
                next = after(script, String.valueOf(sign), next);
                statement.append(script, at, next);
            } else if (script.startsWith("--", at)) {
                next = after(script, "\n", at);
                statement.append('\n');
            } else if (script.startsWith("/*", at) && !script.startsWith("/*+", at)) {
                next = after(script, "*/", at + 2);
                statement.append(' ');
            } else if (sign == ';') {
                add(statements, statement);
            } else {
                statement.append(sign);
            }
            at = next;
        }
        add(statements, statement);
        return statements;
    }

    private static void add(List<String> statements, StringBuilder statement) {
        String text = BEGIN.matcher(statement.toString().strip()).replaceFirst("");
        if (!text.isEmpty() && !END.matcher(text).matches()) {
            statements.add(text);
        }
        statement.setLength(0);
    }

    private static int after(String script, String sign, int from) {
        int found = script.indexOf(sign, from);
        return found < 0 ? script.length() : found + sign.length();
    }
}
