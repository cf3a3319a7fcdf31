defmodule Brain.PresenceTest do
  @moduledoc "Shards, liveness and repairs together, the test being the link."
  use Brain.BrainCase, async: false

  alias Brain.{Liveness, Metrics, Roster, Shard}

  @a "AAAA"
  @e 100

  defp members(room), do: ask(room, false) |> elem(9) |> Enum.map(&elem(&1, 0))

  defp ask(room, count_only?, after_seq \\ 0) do
    id = System.unique_integer([:positive])
    tell([{:query, @a, "s1", @e, id, room, count_only?, after_seq}])
    command(&match?({:answer, @a, "s1", ^id, ^room, _, _, _, _, _}, &1))
  end

  defp ready do
    up()
    warm("s1", @e)
  end

  # A beat of a Shield that lives, though not of its root: it is busy.
  defp alive(shield \\ "s1", epoch \\ @e) do
    tell([beat(shield, epoch, System.unique_integer([:positive, :monotonic]))], 0)
  end

  describe "a room" do
    test "is told as it changes, and on demand" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1), put(@e, "s1", "a", 2, 2)])])

      {:events, @a, coverage, gone, [event], _} =
        command(&match?({:events, @a, _, _, [_ | _], _}, &1))

      assert coverage == [{@e, 2}] and gone == []
      assert {"a", 0, digest, 2, false, members, []} = event
      assert Enum.map(members, &elem(&1, 0)) |> Enum.sort() == ["user1", "user2"]

      answer = ask("a", false)
      assert {:answer, @a, "s1", _, "a", ^digest, [{@e, 2}], 2, false, [_, _]} = answer
      assert {:answer, _, _, _, _, ^digest, _, 2, false, []} = ask("a", true)

      tell([changes(@a, "s1", @e, 3, [{:gone, "a", "user1", <<1, "s1">>}])])
      {:events, @a, _, _, [event], _} = command(&match?({:events, @a, _, _, [_ | _], _}, &1))
      assert {"a", ^digest, _, 1, false, [], ["user1"]} = event
    end

    test "waits with an answer for the asker's own change" do
      ready()

      grows(:parked, fn ->
        tell([{:query, @a, "s1", @e, 1, "a", false, 1}])
      end)

      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])

      assert {_, _, _, 1, "a", _, [{@e, 1}], 1, _, _} =
               command(&match?({:answer, _, _, 1, _, _, _, _, _, _}, &1))

      # One whose change never comes is answered all the same.
      assert {_, _, _, _, "a", _, [{@e, 1}], 1, _, _} = ask("a", false, 99)
    end

    @tag config: [full_limit: 2]
    test "above the limit is told by its count, and says when it falls back" do
      ready()
      tell([changes(@a, "s1", @e, 1, for(n <- 1..3, do: put(@e, "s1", "a", n, n)))])

      {_, _, _, _, [{"a", 0, digest, 3, true, [], []}], _} =
        command(&match?({:events, _, _, _, [{"a", _, _, 3, _, _, _}], _}, &1))

      assert {_, _, _, _, "a", ^digest, _, 3, true, []} = ask("a", false)

      tell([changes(@a, "s1", @e, 4, [{:gone, "a", "user1", <<1, "s1">>}])])
      command(&match?({:events, _, _, _, [{"a", ^digest, _, 2, false, [], []}], _}, &1))
    end
  end

  describe "bad input" do
    test "an incarnation that no beat has put in force is refused" do
      ready()
      grows(:forged, fn -> tell([changes(@a, "s1", @e + 1, 1, [put(@e, "s1", "a", 1, 1)])]) end)
      grows(:forged, fn -> tell([page(@a, "nobody", @e, 1, 7, 0, true, [])]) end)
      assert members("a") == []
    end

    test "a repeated batch is known, a later one leads to a snapshot" do
      ready()
      batch = changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])
      tell([batch])
      grows(:duplicates, fn -> tell([batch]) end)

      grows(:gaps, fn -> tell([changes(@a, "s1", @e, 4, [put(@e, "s1", "a", 3, 4)])]) end)
      {:sync, @a, "s1", @e, request} = command(&match?({:sync, @a, _, _, _}, &1))

      # A change that comes meanwhile waits for the snapshot.
      tell([changes(@a, "s1", @e, 5, [put(@e, "s1", "b", 4, 5)])])
      entries = for {n, seq} <- [{1, 1}, {2, 3}, {3, 4}], do: elem(put(@e, "s1", "a", n, seq), 1)
      entries = Enum.sort(entries)

      grows(:syncs_done, fn ->
        tell([page(@a, "s1", @e, 4, request, 0, false, Enum.take(entries, 1))])
        tell([page(@a, "s1", @e, 4, request, 1, true, Enum.drop(entries, 1))])
      end)

      assert {_, _, _, _, _, _, [{@e, 5}], 3, _, _} = ask("a", false)
      assert members("b") == ["user1"]
    end

    test "a lost last change is found by the beat" do
      ready()
      told = [{@a, 2, 1, 12_345}]

      grows({:syncs, :lag}, fn ->
        tell([beat("s1", @e, System.unique_integer([:positive, :monotonic]), recent: told)])
      end)

      assert {:sync, @a, "s1", @e, _} = command(&match?({:sync, _, _, _, _}, &1))
    end

    test "the right version with another digest is fetched at once" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])

      grows(:digest_mismatches, fn ->
        tell([
          beat("s1", @e, System.unique_integer([:positive, :monotonic]), recent: [{@a, 1, 1, 5}])
        ])
      end)

      command(&match?({:sync, @a, "s1", @e, _}, &1))
    end

    test "terms of a wrong shape are counted, and nothing ends" do
      ready()
      shards = for i <- 0..1, do: Process.whereis(Shard.name(i))

      for blob <- [
            "no term",
            :erlang.term_to_binary({:put, 1}),
            :erlang.term_to_binary([{:put, {"a", "u"}}]),
            :erlang.term_to_binary([{:gone, "a", "u", :x}]),
            :erlang.term_to_binary([1 | 2])
          ] do
        grows(:malformed, fn -> tell([{:changes, @a, "s1", @e, 1, 1, [], blob}]) end)
        grows(:malformed, fn -> tell([{:active, @a, "s1", @e, [], blob}]) end)
        grows(:malformed, fn -> tell([{:page, @a, "s1", @e, 1, 1, 0, true, blob}]) end)
      end

      for event <- [
            :nothing,
            {:changes, @a},
            {:beat, "s1", -1, 0, false, 0, 0, 0, []},
            {:dirty, [1]}
          ] do
        grows(:malformed, fn -> tell([event]) end)
      end

      # An entry with another number than its place in the batch.
      grows(:malformed, fn -> tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 7)])]) end)
      # Fewer changes than were announced.
      grows(:malformed, fn ->
        tell([{:changes, @a, "s1", @e, 1, 2, [], :erlang.term_to_binary([])}])
      end)

      assert shards == for(i <- 0..1, do: Process.whereis(Shard.name(i)))
      assert members("a") == []
    end

    test "two Shields with one id: the higher epoch is in force, the other is counted" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      assert members("a") == ["user1"]

      # Years ahead, by a clock that is off: it is only a number here.
      late = @e + 5_000_000_000_000
      alive("s1", late)
      until(fn -> members("a") == [] end, "empty")
      tell([changes(@a, "s1", late, 1, [put(late, "s1", "a", 2, 1)])])
      until(fn -> members("a") == ["user2"] end, "the other's")

      grows(:shield_conflicts, fn -> alive("s1", @e) end)
      assert members("a") == ["user2"]
    end

    test "an old beat of an incarnation that has ended changes nothing" do
      ready()
      tell([beat("s1", @e, 1_000_000_000, goodbye: true)])
      grows(:stale_epoch, fn -> tell([beat("s1", @e, 2_000_000_000)]) end)
      grows(:forged, fn -> tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])]) end)
    end

    test "a tenant that was deleted while members are present is dropped" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      assert members("a") == ["user1"]

      grows(:tenants_dropped, fn ->
        for n <- 0..1 do
          if n == 1, do: Process.sleep(600)
          tell([{:digests, "s1", @e, 0, true, 0, []}])
        end
      end)

      command(&match?({:events, @a, _, [@e], [{"a", _, 0, 0, false, [], ["user1"]}], _}, &1))
      assert members("a") == []
    end

    test "what the link counted is counted here" do
      ready()

      for kind <- [:slow_consumer, :malformed, :oversized, :clock_skew, :dropped] do
        before = Metrics.get(kind)
        tell([{:counted, kind, 3}])
        assert Metrics.get(kind) == before + 3
      end

      grows(:malformed, fn -> tell([{:counted, :put, 3}]) end)
    end

    test "what the link dropped is fetched" do
      ready()
      tell([{:dirty, [{@a, "s1"}, {"BBBB", "unknown"}]}])
      command(&match?({:sync, @a, "s1", @e, _}, &1))
    end
  end

  describe "life and death" do
    @tag config: [down_after_ms: 600, forget_after_ms: 1_500]
    test "a silent Shield's members leave as one event a room, and come back with its beat" do
      ready()
      tell([changes(@a, "s1", @e, 1, for(n <- 1..3, do: put(@e, "s1", "a", n, n)))])
      command(&match?({:events, @a, _, _, [{"a", 0, _, 3, _, _, _}], _}, &1))

      {_, _, coverage, gone, _, _} =
        command(&match?({:events, @a, _, _, [{"a", _, 0, 0, false, [], [_, _, _]}], _}, &1))

      assert {coverage, gone} == {[], [@e]}
      alive()

      command(
        &match?({:events, @a, [{@e, 3}], [], [{"a", 0, _, 3, false, [_, _, _], []}], _}, &1)
      )
    end

    @tag config: [down_after_ms: 600, forget_after_ms: 1_500]
    test "nobody is declared dead while this Brain is cut off" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      tell([{:spine, :control, :down}])
      until(fn -> Liveness.ready() == {:error, "no connection to CONTROL"} end, "cold")
      command(&match?({:serve, false}, &1))
      Process.sleep(1_000)
      # Long enough to be hidden, were it not for the cut.
      assert {:visible, 1} == roster("s1")
      alive()
      tell([{:spine, :control, :up}])
      assert {:visible, 1} == roster("s1")
    end

    test "a shard that crashes is not served until its part is fetched again" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      assert members("a") == ["user1"]
      pid = Process.whereis(Shard.name(Shard.of(@a, 2)))
      {_, _, digest} = version("s1")
      root = Roster.Table.share(@a, 1, digest)

      Process.exit(pid, :kill)
      command(&match?({:serve, false}, &1))
      until(fn -> Process.whereis(Shard.name(Shard.of(@a, 2))) not in [nil, pid] end, "restarted")

      # The root differs, so the Brain asks at once, and then fetches.
      Task.start_link(fn ->
        for n <- 1..60 do
          tell([beat("s1", @e, System.unique_integer([:positive, :monotonic]), root: root)])
          Process.sleep(100 + n)
        end
      end)

      command(&match?({:ask, "s1", @e}, &1))
      tell([{:digests, "s1", @e, 0, true, root, [{@a, 1, 1, digest}]}])
      {:sync, @a, "s1", @e, request} = command(&match?({:sync, _, _, _, _}, &1))
      refute Liveness.ready() == :ok
      {:put, entry} = put(@e, "s1", "a", 1, 1)
      tell([page(@a, "s1", @e, 1, request, 0, true, [entry])])
      command(&match?({:serve, true}, &1))
      assert members("a") == ["user1"]
    end

    test "liveness that crashes takes the shards along, and all is fetched again" do
      ready()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      old = for i <- 0..1, do: Process.whereis(Shard.name(i))
      Process.exit(Process.whereis(Liveness), :kill)

      until(fn ->
        for(i <- 0..1, do: Process.whereis(Shard.name(i))) |> Enum.all?(&(&1 not in [nil | old]))
      end)

      send(Liveness, {:link_up, self()})
      assert {:error, _} = Liveness.ready()
      ready()
      assert members("a") == []
    end
  end

  test "a Shield that goes amid a snapshot does not silence its tenant" do
    ready()
    tell([changes(@a, "s1", @e, 3, [put(@e, "s1", "a", 3, 3)])])
    {:sync, @a, "s1", @e, request} = command(&match?({:sync, @a, _, _, _}, &1))
    {:put, one} = put(@e, "s1", "a", 1, 1)
    tell([page(@a, "s1", @e, 3, request, 0, false, [one])])
    alive("s2", 7)
    until(fn -> probe(&Roster.status(&1, "s2", 7)) == :visible end)
    tell([beat("s1", @e, 1_000_000_000, goodbye: true)])
    tell([changes(@a, "s2", 7, 1, [put(7, "s2", "b", 4, 1)])])
    command(&match?({:events, @a, [{7, 1}], [@e], [_ | _], _}, &1))
  end

  test "repairs that crash leave no snapshot half applied" do
    ready()
    tell([changes(@a, "s1", @e, 3, [put(@e, "s1", "a", 3, 3)])])
    {:sync, @a, "s1", @e, request} = command(&match?({:sync, @a, _, _, _}, &1))
    {:put, one} = put(@e, "s1", "a", 1, 1)
    tell([page(@a, "s1", @e, 3, request, 0, false, [one])])
    until(fn -> probe(&Roster.half_applied?(&1, @a)) end)
    Process.exit(Process.whereis(Brain.Repairs), :kill)
    until(fn -> not probe(&Roster.half_applied?(&1, @a)) end)
    # The next gap is fetched by the new one.
    tell([changes(@a, "s1", @e, 9, [put(@e, "s1", "a", 3, 9)])])
    command(&match?({:sync, @a, "s1", @e, _}, &1))
  end

  describe "several Brains" do
    test "another warm Brain takes its tenants, and gives them back with digests when it goes" do
      ready()
      accounts = for n <- 1..20, do: "ACC#{n}"
      for a <- accounts, do: tell([changes(a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      other = fn uptime, bye -> tell([{:brain, "brain-2", 9, uptime, true, bye}]) end

      theirs =
        Enum.find(accounts, &(Brain.Rounds.emitter(&1, ["brain-1", "brain-2"]) == "brain-2"))

      ours = Enum.find(accounts, &(Brain.Rounds.emitter(&1, ["brain-1", "brain-2"]) == "brain-1"))
      other.(1, false)
      until(fn -> Metrics.total(:share) in 1..19 end, "shared")

      tell([changes(theirs, "s1", @e, 2, [put(@e, "s1", "b", 2, 2)])])
      tell([changes(ours, "s1", @e, 2, [put(@e, "s1", "b", 2, 2)])])
      command(&match?({:events, ^ours, [{@e, 2}], _, _, _}, &1))

      # It died between change and tick: nobody has told of room b yet.
      other.(2, true)

      {:digests, ^theirs, [{@e, 2}], "", "", rooms} =
        command(&match?({:digests, ^theirs, _, _, _, _}, &1))

      assert Enum.map(rooms, &elem(&1, 0)) == ["a", "b"]
    end
  end

  test "it beats, with what it holds" do
    ready()
    tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
    beat = command(&match?({:beat, %{members: 1, share: 1}}, &1))

    assert {:beat, %{warm: true, goodbye: false, tenants: 1, shields: 1, uptime_ms: uptime}} =
             beat

    {:beat, %{uptime_ms: later}} = command(&match?({:beat, _}, &1))
    assert later > uptime
  end

  test "at the end it stops serving, says goodbye, and beats no more" do
    ready()
    :ok = Liveness.goodbye()
    command(&match?({:serve, false}, &1))

    assert {:beat, %{goodbye: true, warm: false}} =
             command(&match?({:beat, %{goodbye: true}}, &1))

    for n <- 1..30, do: tell([beat("s1", @e, 4_000_000_000 + n)])
    Process.sleep(1_300)
    assert {:error, _} = Liveness.ready()
    refute_received {:"$gen_cast", {:commands, [{_, {:beat, _}}]}}
  end

  test "without credit events wait as dirt, and one event tells all when there is credit again" do
    ready()
    Brain.Link.Credit.reset(:none)
    tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
    tell([changes(@a, "s1", @e, 2, [put(@e, "s1", "a", 2, 2)])])
    Process.sleep(200)
    tell([changes(@a, "s1", @e, 3, [{:gone, "a", "user1", <<1, "s1">>}])])
    until(fn -> version("s1") |> elem(0) == 3 end)
    Brain.Link.Credit.reset(:full)
    {_, _, _, _, [event], _} = command(&match?({:events, @a, _, _, [_ | _], _}, &1))
    assert {"a", 0, _, 1, false, [{"user2", 1, _}], []} = event
  end

  describe "a trace" do
    @trace <<7::128>>
    @cause <<8::64>>

    defp spans(name) do
      command(fn
        {:spans, spans} -> Enum.any?(spans, &(elem(&1, 0) == name))
        _ -> false
      end)
      |> elem(1)
    end

    # All commands until a beat, which is the last of a second.
    defp until_beat(so_far \\ []) do
      case command(fn _ -> true end) do
        {:beat, _} -> so_far
        command -> until_beat([command | so_far])
      end
    end

    test "of a join goes on from this Brain's span, in the event that tells of it" do
      ready()
      before = System.os_time(:nanosecond)
      traced = [{"a", @trace, @cause}]
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)], traced)])

      {_, _, _, _, _, [{"a", @trace, own}]} =
        command(&match?({:events, @a, _, _, [{"a", 0, _, 1, _, _, _}], _}, &1))

      assert byte_size(own) == 8 and own not in [@cause, <<0::64>>]
      assert [{"brain.track", @trace, @cause, ^own, began, ended, about}] = spans("brain.track")
      assert before <= began and began < ended and ended <= System.os_time(:nanosecond)

      assert %{
               "arqon.account" => @a,
               "arqon.room" => "a",
               "arqon.shield" => "s1",
               "arqon.emitter" => true,
               "arqon.told" => true
             } = Map.new(about)
    end

    test "is told with its room to a query that waits for the change" do
      ready()
      grows(:parked, fn -> tell([{:query, @a, "s1", @e, 1, "a", false, 1}]) end)
      traced = [{"a", @trace, @cause}]
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)], traced)])
      {_, _, _, _, _, [{"a", @trace, _}]} = command(&match?({:events, @a, _, _, [_], _}, &1))
      [span] = spans("brain.track")
      assert {"arqon.told", true} in elem(span, 6)
    end

    test "of a message is a span for its mark, with or without one" do
      ready()
      traced = [{"a", @trace, @cause}]
      tell([active(@a, "s1", @e, [], traced)])
      assert [{"brain.activity", @trace, @cause, _, _, _, about}] = spans("brain.activity")
      assert {"arqon.marks", 0} in about
      tell([active(@a, "s1", @e, [{"a", "user1", <<1, "s1">>, 5}], traced)])
      assert [{"brain.activity", @trace, @cause, _, _, _, about}] = spans("brain.activity")
      assert {"arqon.marks", 1} in about
    end

    test "of a batch that is not applied ends unseen" do
      ready()
      traced = [{"a", @trace, @cause}]
      batch = changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])
      tell([batch])
      counted = Metrics.get(:traces)

      for {why, event} <- [
            duplicates: put_elem(batch, 6, traced),
            gaps: changes(@a, "s1", @e, 9, [put(@e, "s1", "a", 1, 9)], traced),
            forged: changes(@a, "s1", @e + 1, 1, [put(@e, "s1", "a", 1, 1)], traced),
            forged: active(@a, "s1", @e + 1, [], traced),
            malformed: changes(@a, "s1", @e, 2, [put(@e, "s1", "a", 1, 7)], traced),
            malformed: {:active, @a, "s1", @e, traced, "no term"},
            malformed: {:changes, @a, "s1", @e, 2, 0, [{"a", @trace, "short"}], "x"},
            malformed: {:active, @a, "s1", @e, :none, "x"}
          ] do
        grows(why, fn -> tell([event]) end)
      end

      until_beat()
      refute Enum.any?(until_beat(), &match?({:spans, _}, &1))
      assert Metrics.get(:traces) == counted
    end

    test "that nobody began costs no command" do
      ready()
      until_beat()
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)])])
      tell([active(@a, "s1", @e, [{"a", "user1", <<1, "s1">>, 5}])])
      all = until_beat() ++ until_beat()
      assert Enum.any?(all, &match?({:events, @a, _, _, [_], []}, &1))
      refute Enum.any?(all, &match?({:spans, _}, &1))
    end

    @tag config: [traces: false]
    test "that this Brain does not export is passed on as it came" do
      ready()
      traced = [{"a", @trace, @cause}]
      tell([changes(@a, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)], traced)])
      tell([active(@a, "s1", @e, [], traced)])
      {_, _, _, _, _, ^traced} = command(&match?({:events, @a, _, _, [_], _}, &1))
      refute Enum.any?(until_beat(), &match?({:spans, _}, &1))
    end

    test "of another Brain's tenant ends when it is applied" do
      ready()
      tell([{:brain, "brain-2", 9, 1, true, false}])

      theirs =
        Enum.find(1..99, &(Brain.Rounds.emitter("ACC#{&1}", ["brain-1", "brain-2"]) == "brain-2"))

      theirs = "ACC#{theirs}"
      shard = Shard.name(Shard.of(theirs, 2))
      until(fn -> :sys.get_state(shard).rounds.live == ["brain-1", "brain-2"] end)
      tell([changes(theirs, "s1", @e, 1, [put(@e, "s1", "a", 1, 1)], [{"a", @trace, @cause}])])
      [{"brain.track", @trace, @cause, _, _, _, about}] = spans("brain.track")
      assert %{"arqon.emitter" => false, "arqon.told" => false} = Map.new(about)
    end

    test "gives way: spans take no credit that presence could need, and are bounded" do
      ready()
      # Less than half: presence goes on, spans do not.
      Brain.Link.Credit.reset(:none)
      Brain.Link.Credit.give(1_000_000)
      traced = for n <- 1..64, do: {"a", <<n::128>>, @cause}
      dropped = Metrics.get(:traces_dropped)

      for n <- 1..10 do
        tell([changes(@a, "s1", @e, n, [put(@e, "s1", "a", n, n)], traced)])
      end

      {_, _, _, _, _, [_ | _]} = command(&match?({:events, @a, _, _, [_ | _], _}, &1))
      until(fn -> Metrics.get(:traces_dropped) >= dropped + 640 end, "dropped")
      refute_received {:"$gen_cast", {:commands, [{_, {:spans, _}}]}}
      until(fn -> version("s1") |> elem(0) == 10 end)
      assert Metrics.get(:traces_dropped) == dropped + 640
    end
  end

  defp version(shield), do: probe(fn r -> Roster.version(r, shield, @e, @a) end)

  defp roster(shield) do
    {status, sessions} =
      probe(fn r -> {Roster.status(r, shield, @e), elem(Roster.totals(r, @a, "a"), 1)} end)

    {status, sessions}
  end

  # Runs in the shard, whose tables are private.
  defp probe(fun) do
    me = self()
    ref = make_ref()

    :sys.replace_state(Shard.name(Shard.of(@a, 2)), fn state ->
      send(me, {ref, fun.(state.roster)})
      state
    end)

    receive do
      {^ref, result} -> result
    end
  end
end
