package io.rerankd.example;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import io.grpc.StatusRuntimeException;
import io.rerankd.v1.RankedContext;
import io.rerankd.v1.RerankBatchResponse;
import io.rerankd.v1.RerankResponse;
import io.rerankd.v1.RerankStreamResponse;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** Lines of JSON in, lines of JSON out; README.md has their fields. */
@Command(name = "run", sortOptions = false, description = "Ranks the queries on standard input.")
public final class Main implements Callable<Integer> {
  private enum Kind {
    unary,
    stream,
    batch
  }

  private record Ranked(int id, double score) {}

  private record Scored(String id, List<Ranked> scored) {}

  private record Ranking(String id, List<Ranked> results, List<Integer> unscored) {}

  private record Failed(String id, Failure error) {}

  @Option(names = "--target", required = true, paramLabel = "HOST:PORT")
  private String target;

  @Option(names = "--ca", paramLabel = "FILE", description = "The authorities to trust; speak TLS.")
  private File ca;

  @Option(names = "--cert", paramLabel = "FILE", description = "Our certificate, for a server that asks for one.")
  private File cert;

  @Option(names = "--key", paramLabel = "FILE")
  private File key;

  @Option(names = "--token-file", paramLabel = "FILE")
  private Path tokenFile;

  @Option(names = "--model", paramLabel = "NAME")
  private String model = "";

  @Option(names = "--deadline-ms", paramLabel = "N", description = "Of each call.")
  private long deadlineMs = 10_000;

  @Option(names = "--cancel-after-ms", paramLabel = "N")
  private Long cancelAfterMs;

  @Parameters(paramLabel = "unary|stream|batch")
  private Kind kind;

  @Spec private CommandSpec spec;

  private final PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
  private final Gson gson = new GsonBuilder().disableHtmlEscaping().create();
  private boolean failed;

  public static void main(String[] arguments) {
    System.exit(new CommandLine(new Main()).execute(arguments));
  }

  /** The exit status: 1 where a call failed. What it throws for bad usage, picocli makes a sentence and a 2. */
  @Override
  public Integer call() {
    try (Client client = open()) {
      var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
      List<Question> questions = Question.readAll(input);
      switch (kind) {
        case unary -> unary(client, questions);
        case stream -> stream(client, questions);
        case batch -> batch(client, questions);
      }
    } catch (IOException | IllegalArgumentException error) {
      throw new ParameterException(spec.commandLine(), error.getMessage(), error);
    }
    return failed ? 1 : 0;
  }

  private Client open() throws IOException {
    if ((cert == null) != (key == null)) {
      throw new IllegalArgumentException("--cert and --key go together; give both.");
    }
    if (cert != null && ca == null) {
      throw new IllegalArgumentException("--cert is of no use without --ca; give that too.");
    }
    return new Client(Connection.open(target, ca, cert, key, tokenFile), model, deadlineMs, cancelAfterMs);
  }

  private void unary(Client client, List<Question> questions) {
    for (int at = 0; at < questions.size(); at++) {
      String id = Integer.toString(at);
      try {
        print(id, client.rank(questions.get(at)));
      } catch (StatusRuntimeException error) {
        fail(id, Failure.of(error));
      }
    }
  }

  private void stream(Client client, List<Question> questions) {
    for (int at = 0; at < questions.size(); at++) {
      String id = Integer.toString(at);
      try {
        client.rankStream(questions.get(at), event -> print(id, event));
      } catch (CompletionException error) {
        fail(id, Failure.of(error));
      }
    }
  }

  private void batch(Client client, List<Question> questions) {
    try {
      client.rankBatch(questions, this::print);
    } catch (CompletionException error) {
      fail("", Failure.of(error));
    }
  }

  private void print(String id, RerankStreamResponse event) {
    if (event.hasScored()) {
      print(new Scored(id, ranked(event.getScored().getResultsList())));
    } else {
      print(id, event.getRanking());
    }
  }

  private void print(RerankBatchResponse answer) {
    if (answer.hasError()) {
      fail(answer.getRequestId(), Failure.of(answer.getError()));
    } else {
      print(answer.getRequestId(), answer.getResponse());
    }
  }

  private void print(String id, RerankResponse ranking) {
    print(new Ranking(id, ranked(ranking.getResultsList()), ranking.getUnscoredList()));
  }

  private void fail(String id, Failure failure) {
    failed = true;
    print(new Failed(id, failure));
  }

  private void print(Record line) {
    out.println(gson.toJson(line));
  }

  private static List<Ranked> ranked(List<RankedContext> results) {
    return results.stream().map(result -> new Ranked(result.getId(), result.getScore())).toList();
  }
}
