package io.rerankd.example;

import com.google.gson.Gson;
import com.google.gson.JsonParseException;
import io.rerankd.v1.Context;
import io.rerankd.v1.RerankRequest;
import java.io.BufferedReader;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** A line of input: a query, its candidates, and what may be asked of them; null where the line says nothing. */
record Question(String query, List<String> contexts, Integer top_k, Integer budget_ms) {
  /** Throws IllegalArgumentException, with a sentence that names the line. */
  static List<Question> readAll(BufferedReader input) throws IOException {
    Gson gson = new Gson();
    List<Question> questions = new ArrayList<>();
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      try {
        Question question = gson.fromJson(line, Question.class);
        if (question == null || question.query == null || question.contexts == null || question.contexts.contains(null)) {
          throw new JsonParseException("it must be an object with a query and a list of contexts, which are strings");
        }
        questions.add(question);
      } catch (JsonParseException error) {
        throw new IllegalArgumentException("Line " + questions.size() + " of the input: " + error.getMessage(), error);
      }
    }
    return questions;
  }

  RerankRequest toRequest(String model) {
    return toStart(model).toBuilder().addAllContexts(messages(contexts)).build();
  }

  /** The request without its contexts, with which a stream starts. */
  RerankRequest toStart(String model) {
    RerankRequest.Builder request = RerankRequest.newBuilder().setQuery(query).setModel(model);
    if (top_k != null) {
      request.setTopK(top_k);
    }
    if (budget_ms != null) {
      request.setBudgetMs(budget_ms);
    }
    return request.build();
  }

  static List<Context> messages(List<String> texts) {
    return texts.stream().map(text -> Context.newBuilder().setText(text).build()).toList();
  }
}
