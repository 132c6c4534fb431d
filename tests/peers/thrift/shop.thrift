// The service of the Thrift peers. of_apache.py has the same without a generator.

struct Item {
  1: i32 number
  2: string name
  3: list<double> prices
  4: bool sold
}

struct Order {
  1: list<Item> items
  2: map<string, list<i32>> places
  3: set<string> tags
  4: map<i32, Item> by_number
  5: i64 total
  6: i16 small
  7: byte tiny
}

exception Empty {
  1: string message
}

service Shop {
  i32 add(1: i32 a, 2: i32 b)
  void ping()
  string echo(1: string text)
  Order order(1: Order order)
  i32 first(1: list<i32> numbers) throws (1: Empty empty)
  oneway void note(1: string text)
  i32 crash()
}

// What a client knows, and no server.
service Newer extends Shop {
  i32 missing()
}
