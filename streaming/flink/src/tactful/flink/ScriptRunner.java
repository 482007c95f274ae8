package tactful.flink;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.PlanReference;
import org.apache.flink.table.api.StatementSet;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * Runs a SQL script as one Flink job.
 *
 * <pre>
 * ScriptRunner run SCRIPT       submits it; SCRIPT is the text in base64, or @FILE
 * ScriptRunner await SCRIPT     submits it and waits for its end (bounded sources)
 * ScriptRunner explain SCRIPT   prints the plan
 * ScriptRunner serve            awaits one script after the other, read from standard input
 * </pre>
 *
 * A setting {@code tactful.state.ttl.count} is the lifetime of the state of OVER aggregations with
 * COUNT, see {@link JobPlan}; so for any other function.
 *
 * A script of settings and one statement ENTITIES '…' runs the {@link EntityJob} of that specification.
 *
 * On a cluster it runs where it was uploaded; started by itself it runs the job in its own JVM.
 */
public final class ScriptRunner {
    private static final Pattern SET =
            Pattern.compile("SET\\s+'([^']*)'\\s*=\\s*'((?:[^']|'')*)'", Pattern.CASE_INSENSITIVE);
    private static final Pattern INSERT = Pattern.compile("INSERT\\s.*", Pattern.CASE_INSENSITIVE | Pattern.DOTALL);

    private static final String ENTITIES = "ENTITIES '";
    private static final String TTL = "tactful.state.ttl."; // then the function of an OVER aggregation

    private ScriptRunner() {}

    public static void main(String[] arguments) throws Exception {
        String mode = arguments.length > 0 ? arguments[0] : "";
        if (arguments.length == 1 && mode.equals("serve")) {
            serve();
        } else if (arguments.length == 2 && mode.matches("run|await|explain")) {
            run(mode, read(arguments[1]));
        } else {
            throw new IllegalArgumentException("Usage: ScriptRunner run|await|explain SCRIPT, or ScriptRunner serve");
        }
    }

    private static String read(String script) throws IOException {
        return script.startsWith("@")
                ? Files.readString(Path.of(script.substring(1)))
                : new String(Base64.getDecoder().decode(script), StandardCharsets.UTF_8);
    }

    /** Settings are for the whole job, wherever in the script they stand; all INSERTs are one job. */
    private static void run(String mode, String script) throws Exception {
        Configuration configuration = new Configuration();
        for (String statement : SqlScript.split(script)) {
            Matcher setting = SET.matcher(statement);
            if (setting.matches()) {
                configuration.setString(setting.group(1), setting.group(2).replace("''", "'"));
            }
        }
        for (String statement : SqlScript.split(script)) {
            if (statement.startsWith(ENTITIES) && statement.endsWith("'")) {
                String specification = statement.substring(ENTITIES.length(), statement.length() - 1);
                runEntities(mode, configuration, specification.replace("''", "'"));
                return;
            }
        }
        TableEnvironment environment = TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
        StatementSet inserts = environment.createStatementSet();
        boolean any = false;
        for (String statement : SqlScript.split(script)) {
            if (SET.matcher(statement).matches()) {
                continue;
            }
            if (INSERT.matcher(statement).matches()) {
                inserts.addInsertSql(statement);
                any = true;
            } else {
                environment.executeSql(statement);
            }
        }
        if (!any) {
            throw new IllegalArgumentException("the script inserts nothing");
        }
        if (mode.equals("explain")) {
            System.out.println(inserts.explain());
            return;
        }
        // By way of the plan, whose operators can have lifetimes and names of their own.
        String plan = JobPlan.edited(inserts.compilePlan().asJsonString(), lifetimes(configuration));
        TableResult result = environment.loadPlan(PlanReference.fromJsonString(plan)).execute();
        if (mode.equals("await")) {
            result.await();
        }
    }

    private static Map<String, String> lifetimes(Configuration configuration) {
        Map<String, String> lifetimes = new HashMap<>();
        configuration.toMap().forEach((key, value) -> {
            if (key.startsWith(TTL)) {
                lifetimes.put(key.substring(TTL.length()), value);
            }
        });
        return lifetimes;
    }

    private static void runEntities(String mode, Configuration configuration, String specification) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        EntityJob.build(environment, specification);
        if (mode.equals("explain")) {
            System.out.println(environment.getExecutionPlan());
        } else if (mode.equals("await")) {
            environment.execute();
        } else {
            environment.executeAsync();
        }
    }

    /** A line in, a script in base64; a line out, "ok" or "failed" and the reason in base64. */
    private static void serve() throws IOException {
        PrintStream answers = System.out;
        System.setOut(System.err); // what the job prints is no answer
        BufferedReader scripts = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = scripts.readLine(); line != null; line = scripts.readLine()) {
            try {
                run("await", read(line));
                answers.println("ok");
            } catch (Throwable failure) {
                answers.println("failed " + Base64.getEncoder().encodeToString(reasons(failure)));
            }
            answers.flush();
        }
    }

    private static byte[] reasons(Throwable failure) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
            text.append(cause.getClass().getSimpleName()).append(": ").append(cause.getMessage()).append('\n');
        }
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }
}
