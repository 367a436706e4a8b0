package main

import (
	"errors"
	"io"
	"strconv"

	rerankdv1 "github.com/rerankd/rerankd/examples/go/gen/rerankd/v1"
)

// chunk is how many contexts one message of a stream holds.
const chunk = 16

// unary asks each line in a call of its own, one after the other.
func unary(client client, options options, lines []line, out *printer) {
	for at, line := range lines {
		ctx, cancel := options.call()
		response, err := client.Rerank(ctx, line.request(options.model))
		cancel()
		if err != nil {
			out.failure(strconv.Itoa(at), err)
		} else {
			out.ranking(strconv.Itoa(at), response)
		}
	}
}

// stream asks each line in a streamed call of its own: contexts leave while scores already come.
func stream(client client, options options, lines []line, out *printer) {
	for at, line := range lines {
		if err := streamed(client, options, line, strconv.Itoa(at), out); err != nil {
			out.failure(strconv.Itoa(at), err)
		}
	}
}

func streamed(client client, options options, line line, id string, out *printer) error {
	ctx, cancel := options.call()
	defer cancel()
	call, err := client.RerankStream(ctx)
	if err != nil {
		return err
	}
	go send(call, line.parts(options.model))
	for {
		response, err := call.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case response.GetRanking() != nil:
			out.ranking(id, response.GetRanking())
		default:
			out.scored(id, response.GetScored().GetResults())
		}
	}
}

// batch asks all lines in one call; each is answered when it is ready, in any order.
func batch(client client, options options, lines []line, out *printer) {
	ctx, cancel := options.call()
	defer cancel()
	call, err := client.RerankBatch(ctx)
	if err != nil {
		out.failure("", err)
		return
	}
	items := make([]*rerankdv1.RerankBatchRequest, len(lines))
	for at, line := range lines {
		items[at] = &rerankdv1.RerankBatchRequest{RequestId: strconv.Itoa(at), Request: line.request(options.model)}
	}
	go send(call, items)
	for {
		answer, err := call.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			out.failure("", err)
			return
		case answer.GetError() != nil:
			out.itemFailure(answer.GetRequestId(), answer.GetError())
		default:
			out.ranking(answer.GetRequestId(), answer.GetResponse())
		}
	}
}

type sender[T any] interface {
	Send(T) error
	CloseSend() error
}

// send writes all messages, at the pace that the server takes them. Where the server has ended the call it
// stops; why that was, Recv tells.
func send[T any](call sender[T], messages []T) {
	for _, message := range messages {
		if call.Send(message) != nil {
			return
		}
	}
	call.CloseSend()
}
