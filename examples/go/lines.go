package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	rerankdv1 "github.com/rerankd/rerankd/examples/go/gen/rerankd/v1"
)

// line is one query, as it stands in the input.
type line struct {
	Query    string   `json:"query"`
	Contexts []string `json:"contexts"`
	TopK     *uint32  `json:"top_k"`
	BudgetMs *uint32  `json:"budget_ms"`
}

func readLines(in io.Reader) ([]line, error) {
	var lines []line
	for decoder := json.NewDecoder(in); ; {
		var next line
		err := decoder.Decode(&next)
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of the input: %w", len(lines), err)
		}
		lines = append(lines, next)
	}
}

func (l line) contexts() []*rerankdv1.Context {
	contexts := make([]*rerankdv1.Context, len(l.Contexts))
	for at, text := range l.Contexts {
		contexts[at] = &rerankdv1.Context{Text: text}
	}
	return contexts
}

func (l line) request(model string) *rerankdv1.RerankRequest {
	start := l.start(model)
	start.Contexts = l.contexts()
	return start
}

func (l line) start(model string) *rerankdv1.RerankRequest {
	return &rerankdv1.RerankRequest{Query: l.Query, TopK: l.TopK, BudgetMs: l.BudgetMs, Model: model}
}

// parts are a stream's messages: the query and its options, then the contexts in chunks.
func (l line) parts(model string) []*rerankdv1.RerankStreamRequest {
	parts := []*rerankdv1.RerankStreamRequest{
		{Part: &rerankdv1.RerankStreamRequest_Start{Start: l.start(model)}},
	}
	for contexts := l.contexts(); len(contexts) > 0; {
		size := min(chunk, len(contexts))
		more := &rerankdv1.ContextChunk{Contexts: contexts[:size]}
		parts = append(parts, &rerankdv1.RerankStreamRequest{Part: &rerankdv1.RerankStreamRequest_More{More: more}})
		contexts = contexts[size:]
	}
	return parts
}

type result struct {
	ID    uint32  `json:"id"`
	Score float32 `json:"score"`
}

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Field   string `json:"field"`
	RetryMs int64  `json:"retry_ms"`
}

// printer writes the output's lines, and remembers whether something failed.
type printer struct {
	encoder *json.Encoder
	failed  bool
}

func newPrinter(out *os.File) *printer {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return &printer{encoder: encoder}
}

func (p *printer) ranking(id string, response *rerankdv1.RerankResponse) {
	unscored := append([]uint32{}, response.GetUnscored()...) // not nil, which JSON would call null
	p.encoder.Encode(map[string]any{"id": id, "results": results(response.GetResults()), "unscored": unscored})
}

func (p *printer) scored(id string, ranked []*rerankdv1.RankedContext) {
	p.encoder.Encode(map[string]any{"id": id, "scored": results(ranked)})
}

// failure tells why a call failed: its code, and the google.rpc details that came with it.
func (p *printer) failure(id string, err error) {
	what := status.Convert(err)
	told := failure{Code: code.Code(what.Code()).String(), Message: what.Message()}
	for _, detail := range what.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			told.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			told.Field = detail.GetFieldViolations()[0].GetField()
		case *errdetails.RetryInfo:
			told.RetryMs = detail.GetRetryDelay().AsDuration().Milliseconds()
		}
	}
	p.fail(id, told)
}

func (p *printer) itemFailure(id string, err *rerankdv1.Error) {
	p.fail(id, failure{
		Code:    code.Code(err.GetCode()).String(),
		Message: err.GetMessage(),
		Reason:  err.GetReason(),
		Field:   err.GetField(),
	})
}

func (p *printer) fail(id string, told failure) {
	p.failed = true
	p.encoder.Encode(map[string]any{"id": id, "error": told})
}

func results(ranked []*rerankdv1.RankedContext) []result {
	results := make([]result, len(ranked))
	for at, each := range ranked {
		results[at] = result{each.GetId(), each.GetScore()}
	}
	return results
}
