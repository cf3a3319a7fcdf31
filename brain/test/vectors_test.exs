defmodule Brain.VectorsTest do
  @moduledoc """
  The frames in testdata/, which the link's own tests make from the golden Protobuf vectors, written
  out here in Elixir: read with `[:safe]`, and encoded to the same bytes where the encoding of the
  term is the only one.
  """
  use ExUnit.Case, async: true

  alias Brain.Link.{Dispatch, Terms}

  @account "AACME" <> String.duplicate("2", 51)
  @globex "AGLOBEX" <> String.duplicate("7", 49)
  @epoch 116_649_512_964_659_755
  @brain 116_649_513_152_282_690
  @s1 Base.decode16!("019E6C1D2F7B7B218D435E6F70810001")
  @s2 Base.decode16!("019E6C1D2F7B7B218D435E6F70810002")
  @s3 Base.decode16!("019E6C1D2F7B7B218D435E6F70810003")
  @s4 Base.decode16!("019E6C1D2F7B7B218D435E6F70810004")
  @trace1 Base.decode16!("4BF92F3577B34DA6A3CE929D0E0E4736")
  @span1 Base.decode16!("00F067AA0BA902B7")
  @trace2 Base.decode16!("0AF7651916CD43DD8448EB211C80319C")
  @span2 Base.decode16!("B7AD6B7169203331")
  @meta "\n\r\n\x04name\x12\x05Alice\n\x16\n\x06status\x12\x0Cgrüße 👋"
  @coverage [{@epoch, 44}, {@brain, 7}]
  @largest 576_460_752_303_423_487

  @alice {"lobby", "alice@example.com", @s1, 42, @meta, 1_779_999_999_123, 1_780_000_014_123,
          345_520_074_310_827_145}
  @bob {"lobby.side", "bob", @s2, 43, "", 0, 0, 67_370_414_395_137_429}
  @alice_listed {"alice@example.com", 17,
                 [
                   {@s1, @meta, 1_779_999_999_123, 1_780_000_014_123},
                   {@s4, "", 1_779_999_999_124, 0}
                 ]}

  # Blobs are given as the terms in them.
  @incoming %{
    "counted" => [
      {:counted, :slow_consumer, 1},
      {:counted, :malformed, 300},
      {:counted, :oversized, 3},
      {:counted, :clock_skew, 4},
      {:counted, :dropped, 70_000}
    ],
    "dirty" => [{:dirty, [{@account, "shield-1"}, {@globex, "shield-1"}]}],
    "presence-active" => [
      {:active, @account, "shield-1", @epoch, [],
       [
         {"lobby", "alice@example.com", @s1, 1_780_000_044_123},
         {"lobby.side", "bob", @s2, 1_780_000_044_124}
       ]}
    ],
    "presence-changes" => [
      {:changes, @account, "shield-1", @epoch, 42, 3, [],
       [{:put, @alice}, {:put, @bob}, {:gone, "lobby", "carol", @s3}]},
      {:active, @account, "shield-1", @epoch, [],
       [{"lobby", "alice@example.com", @s1, 1_780_000_029_123}]}
    ],
    "presence-activity-traced" => [
      {:active, @account, "shield-1", @epoch, [{"lobby", @trace2, @span2}], []}
    ],
    "presence-changes-traced" => [
      {:changes, @account, "shield-1", @epoch, 44, 1, [{"lobby", @trace1, @span1}],
       [{:gone, "lobby", "carol", @s3}]},
      {:active, @account, "shield-1", @epoch, [{"lobby.side", @trace2, @span2}], []}
    ],
    "presence-page" => [
      {:page, @account, "shield-1", @epoch, 44, 18_364_758_544_493_064_720, 3, true,
       [@alice, @bob]}
    ],
    "presence-page-empty" => [{:page, @account, "shield-1", @epoch, 50, 7, 0, true, []}],
    "presence-query" => [
      {:query, @account, "shield-1", @epoch, 9_223_372_036_854_775_809, "lobby", true, 44}
    ],
    "presence-query-members" => [{:query, @account, "shield-1", @epoch, 258, "lobby", false, 0}],
    "record-beat" => [{:beat, "shield-1", 1_779_930_312_571, 61_000, false, 0, 0, 0, []}],
    "record-beat-presence" => [
      {:beat, "shield-1", @epoch, 61_000, true, 532_905_939_945_342_311, 1, 2,
       [{@account, 44, 2, 81_985_529_216_486_895}, {@globex, 3, 0, 0}]}
    ],
    "record-brain-beat" => [{:brain, "brain-1", @brain, 61_000, true, true}],
    "record-presence-digests" => [
      {:digests, "shield-1", @epoch, 1, true, 532_905_939_945_342_311,
       [{@account, 44, 2, 81_985_529_216_486_895}, {@globex, 300, 1, 255}]}
    ],
    "spine" => [
      {:spine, :control, :up},
      {:spine, :control, :down},
      {:spine, :brain, :up},
      {:spine, :brain, :down}
    ]
  }

  @frames %{
    "credit" => {:credit, 300},
    "pong" => {:pong, 7},
    "scraped" => {:scraped, 300, "# EOF\n"},
    "hello" =>
      {:hello, 2,
       %{
         count_tick_ms: 1000,
         digest_ms: 10_000,
         down_after_ms: 3000,
         forget_after_ms: 60_000,
         full_limit: 500,
         id: "brain-1",
         incarnation: @brain,
         listen: "127.0.0.1:8082",
         log_format: :pretty,
         log_level: :info,
         repairs: 4,
         sessions_listed: 16,
         shards: 0,
         state_max_bytes: 524_288,
         tick_ms: 100,
         traces: false,
         version: "0.1.0"
       }}
  }

  @commands %{
    "presence-answer" =>
      {:answer, @account, "shield-1", 258, "lobby", @largest, @coverage, 2, false,
       [@alice_listed, {"bob", 1, [{@s2, "\n\x06\n\x04away", 0, 0}]}]},
    "presence-answer-truncated" =>
      {:answer, @account, "shield-1", 9_223_372_036_854_775_809, "lobby", 81, @coverage, 10_000,
       true, []},
    "presence-digest-range" =>
      {:digests, @account, @coverage, "a", "stadium",
       [{"lobby", @largest, 2}, {"stadium", 2, 10_000}]},
    "presence-events" =>
      {:events, @account, @coverage, [116_649_512_964_659_754, 200],
       [
         {"lobby", 81, @largest, 2, false, [@alice_listed], ["carol", "dörte"]},
         {"stadium", 1, 2, 10_000, true, [], []},
         {"void", 3, 0, 0, false, [], ["bob"]}
       ], []},
    "presence-events-traced" =>
      {:events, @account, [{@epoch, 44}], [], [{"lobby", 81, 82, 2, false, [], ["carol"]}],
       [{"lobby", @trace1, @span1}]},
    "presence-gone" => {:events, @account, [{@brain, 7}], [@epoch], [], []},
    "presence-sync" => {:sync, @account, "shield-1", @epoch, 18_364_758_544_493_064_720},
    "record-brain-beat" =>
      {:beat,
       %{
         goodbye: true,
         members: 5_000_000_000,
         share: 5,
         shields: 3,
         tenants: 12,
         uptime_ms: 61_000,
         warm: true
       }},
    "record-presence-ask" => {:ask, "shield-1", @epoch},
    "serve" => {:serve, true},
    "spans" =>
      {:spans,
       [
         {"brain.track", @trace1, @span1, <<0x0123456789ABCDEF::64>>, 1_779_999_999_123_000_000,
          1_779_999_999_223_000_001,
          [{"arqon.room", "lobby"}, {"arqon.changes", 3}, {"arqon.told", true}]}
       ]}
  }

  defp read(name), do: File.read!("testdata/#{name}.etf")

  for {name, events} <- @incoming do
    @events events
    test "#{name} is read" do
      {:ok, {:batch, cost, events}} = Terms.decode(read(unquote(name) <> ".in"))
      assert cost > 0
      assert Enum.all?(events, &Terms.event?/1)
      assert Enum.map(events, &open/1) == @events
      # And each has an owner.
      assert Dispatch.deal(events, 4, %{}, 0).malformed == 0
    end
  end

  for {name, frame} <- @frames do
    @frame frame
    test "#{name} is read" do
      assert Terms.decode(read(unquote(name) <> ".in")) == {:ok, @frame}
    end
  end

  for {name, command} <- @commands do
    @command command
    test "#{name} is written" do
      bytes = read(unquote(name) <> ".out")
      assert Terms.decode(bytes) == {:ok, {:batch, 100, [@command]}}
      # Atoms and maps can be encoded in more than one way; what is encoded is one.
      ours = Terms.encode({:batch, 100, [@command]})
      assert Terms.decode(ours) == Terms.decode(bytes)
    end
  end

  test "a ping is written" do
    assert Terms.decode(read("ping.out")) == {:ok, {:ping, 7}}
  end

  # The frame holds every number of the link's catalogue: one that only one side knows ends the link.
  test "the numbers are those of the link's catalogue" do
    Brain.Metrics.init()
    numbers = Brain.Metrics.numbers()
    names = Enum.map(numbers, &elem(&1, 0))
    assert names == Enum.uniq(names)
    assert Enum.all?(numbers, fn {_, n} -> is_integer(n) and n >= 0 end)
    {:ok, {:numbers, known}} = Terms.decode(read("numbers.out"))
    assert Enum.sort(names) == known |> Enum.map(&elem(&1, 0)) |> Enum.sort()
    assert {:ok, {:scrape, 300, ^known}} = Terms.decode(read("scrape.out"))
  end

  test "the hello is a configuration" do
    {:ok, {:hello, 2, hello}} = Terms.decode(read("hello.in"))
    assert {:ok, config} = Brain.Config.new(hello)
    assert config.shards == System.schedulers_online()
    assert Brain.Config.log_level(config) == :info
    assert {:error, _} = Brain.Config.new(Map.delete(hello, :tick_ms))
    assert {:error, _} = Brain.Config.new(Map.delete(hello, :traces))
  end

  test "no file is left out" do
    known =
      for(n <- Map.keys(@incoming) ++ Map.keys(@frames), do: n <> ".in.etf") ++
        for n <- Map.keys(@commands) ++ ["numbers", "ping", "scrape"], do: n <> ".out.etf"

    assert Enum.sort(known) ==
             "testdata/*.etf" |> Path.wildcard() |> Enum.map(&Path.basename/1) |> Enum.sort()
  end

  test "the root's share is that of arqon_proto" do
    assert Brain.Roster.Table.share("ACME", 7, 12_345) == 140_009_995_193_868_655
  end

  defp open({:changes, a, s, e, first, count, traces, blob}) do
    {:ok, changes} = Terms.changes(blob, count)
    {:changes, a, s, e, first, count, traces, changes}
  end

  defp open({:active, a, s, e, traces, blob}) do
    {:ok, marks} = Terms.marks(blob)
    {:active, a, s, e, traces, marks}
  end

  defp open({:page, a, s, e, seq, request, n, last?, blob}) do
    {:ok, entries} = Terms.entries(blob)
    {:page, a, s, e, seq, request, n, last?, entries}
  end

  defp open(event), do: event
end
