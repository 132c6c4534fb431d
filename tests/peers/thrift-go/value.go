package main

import (
	"context"
	"fmt"

	"github.com/apache/thrift/lib/go/thrift"
)

// A struct, with its fields in the order in which they are on the wire. It is read and written without a generator.
type structure []field

type field struct {
	of    thrift.TType
	id    int16
	value any
}

// A list or a set.
type list struct {
	of       thrift.TType
	elements []any
}

// A map, with its keys and values in turn.
type dict struct {
	key, value thrift.TType
	entries    []any
}

func (s *structure) Read(ctx context.Context, p thrift.TProtocol) error {
	if _, err := p.ReadStructBegin(ctx); err != nil {
		return err
	}
	for {
		_, of, id, err := p.ReadFieldBegin(ctx)
		if err != nil {
			return err
		}
		if of == thrift.STOP {
			return p.ReadStructEnd(ctx)
		}
		value, err := read(ctx, p, of)
		if err != nil {
			return err
		}
		*s = append(*s, field{of, id, value})
		if err := p.ReadFieldEnd(ctx); err != nil {
			return err
		}
	}
}

func (s *structure) Write(ctx context.Context, p thrift.TProtocol) error {
	if err := p.WriteStructBegin(ctx, ""); err != nil {
		return err
	}
	for _, field := range *s {
		if err := p.WriteFieldBegin(ctx, "", field.of, field.id); err != nil {
			return err
		}
		if err := write(ctx, p, field.of, field.value); err != nil {
			return err
		}
		if err := p.WriteFieldEnd(ctx); err != nil {
			return err
		}
	}
	if err := p.WriteFieldStop(ctx); err != nil {
		return err
	}
	return p.WriteStructEnd(ctx)
}

func read(ctx context.Context, p thrift.TProtocol, of thrift.TType) (any, error) {
	switch of {
	case thrift.BOOL:
		return p.ReadBool(ctx)
	case thrift.BYTE:
		return p.ReadByte(ctx)
	case thrift.I16:
		return p.ReadI16(ctx)
	case thrift.I32:
		return p.ReadI32(ctx)
	case thrift.I64:
		return p.ReadI64(ctx)
	case thrift.DOUBLE:
		return p.ReadDouble(ctx)
	case thrift.STRING:
		return p.ReadString(ctx)
	case thrift.STRUCT:
		var value structure
		err := value.Read(ctx, p)
		return value, err
	case thrift.LIST:
		of, size, err := p.ReadListBegin(ctx)
		if err != nil {
			return nil, err
		}
		return readList(ctx, p, of, size)
	case thrift.SET:
		of, size, err := p.ReadSetBegin(ctx)
		if err != nil {
			return nil, err
		}
		return readList(ctx, p, of, size)
	case thrift.MAP:
		key, value, size, err := p.ReadMapBegin(ctx)
		if err != nil {
			return nil, err
		}
		all := dict{key: key, value: value}
		for range size {
			for _, of := range []thrift.TType{key, value} {
				element, err := read(ctx, p, of)
				if err != nil {
					return nil, err
				}
				all.entries = append(all.entries, element)
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("a value of type %v", of)
}

func readList(ctx context.Context, p thrift.TProtocol, of thrift.TType, size int) (any, error) {
	all := list{of: of}
	for range size {
		element, err := read(ctx, p, of)
		if err != nil {
			return nil, err
		}
		all.elements = append(all.elements, element)
	}
	return all, nil
}

func write(ctx context.Context, p thrift.TProtocol, of thrift.TType, value any) error {
	switch value := value.(type) {
	case bool:
		return p.WriteBool(ctx, value)
	case int8:
		return p.WriteByte(ctx, value)
	case int16:
		return p.WriteI16(ctx, value)
	case int32:
		return p.WriteI32(ctx, value)
	case int64:
		return p.WriteI64(ctx, value)
	case float64:
		return p.WriteDouble(ctx, value)
	case string:
		return p.WriteString(ctx, value)
	case structure:
		return value.Write(ctx, p)
	case list:
		begin := p.WriteListBegin
		if of == thrift.SET {
			begin = p.WriteSetBegin
		}
		if err := begin(ctx, value.of, len(value.elements)); err != nil {
			return err
		}
		for _, element := range value.elements {
			if err := write(ctx, p, value.of, element); err != nil {
				return err
			}
		}
		return nil
	case dict:
		if err := p.WriteMapBegin(ctx, value.key, value.value, len(value.entries)/2); err != nil {
			return err
		}
		for at, element := range value.entries {
			of := value.key
			if at%2 == 1 {
				of = value.value
			}
			if err := write(ctx, p, of, element); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("a value %v of type %v", value, of)
}
