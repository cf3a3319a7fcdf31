defmodule Brain.TracesTest do
  @moduledoc "What becomes of traces between a batch and the round that tells of it."
  use ExUnit.Case, async: true

  alias Brain.Traces

  @a "AAAA"
  @batch %{account: @a, shield: "s1", count: 3, began: 100}

  defp id(n), do: <<n::64>>
  defp traced(room, n), do: {room, <<n::128>>, id(1_000 + n)}

  defp track(t, traces, ids, waits?, opts \\ []) do
    batch = Map.merge(@batch, Map.new(opts[:batch] || []))
    Traces.track(t, batch, traces, ids, opts[:emitter?] != false, waits?, opts[:now] || 110)
  end

  defp events(account, rooms) do
    {50, {:events, account, [{1, 1}], [], for(r <- rooms, do: {r, 0, 1, 1, false, [], []}), []}}
  end

  test "a change that is told ends with its round, and its trace goes on from its span" do
    {t, 0} =
      track(Traces.new(true), [traced("a", 1), traced("b", 2)], [id(7), id(8)], &(&1 != ""))

    assert {[], t} = Traces.take(t)

    digests = {9, {:digests, @a, [], "", "", []}}
    commands = [events("BBBB", ["a"]), events(@a, ["c"]), events(@a, ["a"]), digests]
    {t, [first, second, third, ^digests]} = Traces.tell(t, commands, 200)
    assert first == events("BBBB", ["a"])
    assert {_, {:events, @a, _, _, [_], []}} = second
    assert {cost, {:events, @a, _, _, [_], [{"a", <<1::128>>, <<7::64>>}]}} = third
    assert cost > 50

    assert {[span], t} = Traces.take(t)
    assert {"brain.track", <<1::128>>, parent, own, 100, 200, about} = span
    assert {parent, own} == {id(1_001), id(7)}

    assert Map.new(about) == %{
             "messaging.system" => "nats",
             "arqon.account" => @a,
             "arqon.shield" => "s1",
             "arqon.room" => "a",
             "arqon.changes" => 3,
             "arqon.emitter" => true,
             "arqon.told" => true
           }

    # Room b is told a round later.
    t = Traces.settle(t, fn @a, "b" -> true end, 210)
    assert {[], t} = Traces.take(t)
    {t, [{_, {:events, _, _, _, _, [{"b", _, _}]}}]} = Traces.tell(t, [events(@a, ["b"])], 300)
    assert {[{"brain.track", <<2::128>>, _, _, 100, 300, _}], t} = Traces.take(t)
    assert t == Traces.new(true)
  end

  test "several of one room go on in the order in which they came" do
    {t, 0} =
      track(Traces.new(true), [traced("a", 1), traced("a", 2)], [id(1), id(2)], &(&1 == "a"))

    {t, 0} = track(t, [traced("a", 3)], [id(3)], fn _ -> true end)
    {_, [{_, {:events, _, _, _, _, traces}}]} = Traces.tell(t, [events(@a, ["a"])], 200)
    assert traces == for(n <- 1..3, do: {"a", <<n::128>>, id(n)})
  end

  test "where there is nothing to tell it ends when it is applied" do
    never = fn _ -> false end
    {t, 0} = track(Traces.new(true), [traced("a", 1)], [id(7)], never, emitter?: false)
    {[{"brain.track", _, _, _, 100, 110, about}], t} = Traces.take(t)
    assert %{"arqon.emitter" => false, "arqon.told" => false} = Map.new(about)
    assert Traces.tell(t, [events(@a, ["a"])], 200) == {t, [events(@a, ["a"])]}
  end

  test "what waits for a room that is not dirty any more ends" do
    {t, 0} = track(Traces.new(true), [traced("a", 1)], [id(7)], fn _ -> true end)
    t = Traces.settle(t, fn _, _ -> false end, 400)
    assert {[{"brain.track", _, _, _, 100, 400, about}], t} = Traces.take(t)
    assert %{"arqon.emitter" => true, "arqon.told" => false} = Map.new(about)
    assert t == Traces.new(true)
  end

  test "marks of activity" do
    {t, 0} = Traces.mark(Traces.new(true), @batch, [traced("a", 1)], [id(7)], 105)
    assert {[{"brain.activity", <<1::128>>, _, <<7::64>>, 100, 105, about}], _} = Traces.take(t)
    assert %{"arqon.marks" => 3, "arqon.room" => "a"} = Map.new(about)
  end

  test "a clock that was set back makes no span that ends before it began" do
    {t, 0} = Traces.mark(Traces.new(true), @batch, [traced("a", 1)], [id(7)], 5)
    assert {[{_, _, _, _, 100, 100, _}], _} = Traces.take(t)
  end

  test "no more are held than 256, whatever they wait for" do
    all = for n <- 1..200, do: traced("r#{n}", n)
    ids = for n <- 1..200, do: id(n)
    {t, 0} = track(Traces.new(true), all, ids, fn _ -> true end)
    {t, 144} = track(t, all, ids, fn _ -> false end)
    {t, 1} = Traces.mark(t, @batch, [traced("a", 1)], [id(1)], 200)
    assert {spans, t} = Traces.take(t)
    assert length(spans) == 56
    # The place of those that have ended is free again, that of those that wait is not.
    {t, 0} = track(t, Enum.take(all, 56), ids, fn _ -> true end)
    {t, 1} = track(t, [traced("x", 1)], [id(1)], fn _ -> true end)
    t = Traces.settle(t, fn _, _ -> false end, 300)
    assert {spans, t} = Traces.take(t)
    assert length(spans) == 256
    assert t == Traces.new(true)
  end

  test "where spans are not exported the trace goes on from the Shield's own span" do
    off = Traces.new(false)
    {t, 0} = track(off, [traced("a", 1), traced("b", 2)], [id(7), id(8)], &(&1 == "a"))
    {t, 0} = Traces.mark(t, @batch, [traced("a", 3)], [id(9)], 105)
    {t, [{_, {:events, _, _, _, _, traces}}]} = Traces.tell(t, [events(@a, ["a"])], 200)
    assert traces == [traced("a", 1)]
    assert Traces.take(t) == {[], off}
  end
end
