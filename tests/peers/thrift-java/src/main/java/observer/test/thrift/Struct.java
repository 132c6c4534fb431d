package observer.test.thrift;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.thrift.TException;
import org.apache.thrift.protocol.TField;
import org.apache.thrift.protocol.TList;
import org.apache.thrift.protocol.TMap;
import org.apache.thrift.protocol.TProtocol;
import org.apache.thrift.protocol.TProtocolException;
import org.apache.thrift.protocol.TSet;
import org.apache.thrift.protocol.TStruct;
import org.apache.thrift.protocol.TType;

/** A struct, by the ids of its fields. It is read and written without a generator. */
final class Struct {
  /** A value with its type. */
  record Value(byte type, Object value) {}

  /** A list. */
  record Sequence(byte type, List<Object> elements) {}

  /** A set. */
  record Unordered(byte type, Set<Object> elements) {}

  /** A map. */
  record Entries(byte key, byte value, Map<Object, Object> entries) {}

  private static final TStruct NAME = new TStruct("");

  private final Map<Short, Value> fields = new TreeMap<>();

  Struct with(int id, byte type, Object value) {
    fields.put((short) id, new Value(type, value));
    return this;
  }

  /** The value of a field; {@code null} if there is none. */
  Value get(int id) {
    return fields.get((short) id);
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Struct struct && struct.fields.equals(fields);
  }

  @Override
  public int hashCode() {
    return fields.hashCode();
  }

  static Struct read(TProtocol in) throws TException {
    Struct struct = new Struct();
    in.readStructBegin();
    for (TField field = in.readFieldBegin(); field.type != TType.STOP; field = in.readFieldBegin()) {
      struct.with(field.id, field.type, readValue(in, field.type));
      in.readFieldEnd();
    }
    in.readStructEnd();
    return struct;
  }

  void write(TProtocol out) throws TException {
    out.writeStructBegin(NAME);
    for (Map.Entry<Short, Value> field : fields.entrySet()) {
      Value value = field.getValue();
      out.writeFieldBegin(new TField("", value.type, field.getKey()));
      writeValue(out, value.type, value.value);
      out.writeFieldEnd();
    }
    out.writeFieldStop();
    out.writeStructEnd();
  }

  private static Object readValue(TProtocol in, byte type) throws TException {
    switch (type) {
      case TType.BOOL:
        return in.readBool();
      case TType.BYTE:
        return in.readByte();
      case TType.I16:
        return in.readI16();
      case TType.I32:
        return in.readI32();
      case TType.I64:
        return in.readI64();
      case TType.DOUBLE:
        return in.readDouble();
      case TType.STRING:
        return in.readBinary();
      case TType.STRUCT:
        return read(in);
      case TType.LIST:
        {
          TList list = in.readListBegin();
          List<Object> elements = new ArrayList<>();
          for (int i = 0; i < list.size; i += 1) {
            elements.add(readValue(in, list.elemType));
          }
          in.readListEnd();
          return new Sequence(list.elemType, elements);
        }
      case TType.SET:
        {
          TSet set = in.readSetBegin();
          Set<Object> elements = new HashSet<>();
          for (int i = 0; i < set.size; i += 1) {
            elements.add(readValue(in, set.elemType));
          }
          in.readSetEnd();
          return new Unordered(set.elemType, elements);
        }
      case TType.MAP:
        {
          TMap map = in.readMapBegin();
          Map<Object, Object> entries = new LinkedHashMap<>();
          for (int i = 0; i < map.size; i += 1) {
            Object key = readValue(in, map.keyType);
            entries.put(key, readValue(in, map.valueType));
          }
          in.readMapEnd();
          return new Entries(map.keyType, map.valueType, entries);
        }
      default:
        throw new TProtocolException(TProtocolException.INVALID_DATA, "a value of type " + type);
    }
  }

  private static void writeValue(TProtocol out, byte type, Object value) throws TException {
    switch (type) {
      case TType.BOOL -> out.writeBool((Boolean) value);
      case TType.BYTE -> out.writeByte((Byte) value);
      case TType.I16 -> out.writeI16((Short) value);
      case TType.I32 -> out.writeI32((Integer) value);
      case TType.I64 -> out.writeI64((Long) value);
      case TType.DOUBLE -> out.writeDouble((Double) value);
      case TType.STRING -> out.writeBinary(((ByteBuffer) value).duplicate());
      case TType.STRUCT -> ((Struct) value).write(out);
      case TType.LIST -> {
        Sequence list = (Sequence) value;
        out.writeListBegin(new TList(list.type, list.elements.size()));
        for (Object element : list.elements) {
          writeValue(out, list.type, element);
        }
        out.writeListEnd();
      }
      case TType.SET -> {
        Unordered set = (Unordered) value;
        out.writeSetBegin(new TSet(set.type, set.elements.size()));
        for (Object element : set.elements) {
          writeValue(out, set.type, element);
        }
        out.writeSetEnd();
      }
      case TType.MAP -> {
        Entries map = (Entries) value;
        out.writeMapBegin(new TMap(map.key, map.value, map.entries.size()));
        for (Map.Entry<Object, Object> entry : map.entries.entrySet()) {
          writeValue(out, map.key, entry.getKey());
          writeValue(out, map.value, entry.getValue());
        }
        out.writeMapEnd();
      }
      default ->
          throw new TProtocolException(TProtocolException.INVALID_DATA, "a value of type " + type);
    }
  }
}
