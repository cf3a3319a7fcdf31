defmodule Brain.PlansTest do
  @moduledoc "What is pure beside the roster: the plan of repairs, doubts, credit, roots."
  use ExUnit.Case, async: true

  import Brain.Prop
  import :proper_types, only: [list: 1, frequency: 1, choose: 2]
  alias Brain.Link.{Credit, Dispatch, Terms}
  alias Brain.Repairs.Plan
  alias Brain.Roots
  alias Brain.Shard.Doubts

  describe "repairs" do
    test "never more than the limit at once, none twice, none lost" do
      key = choose(1, 8)

      type =
        list(
          frequency([
            {6, {:want, key}},
            {6, {:done, key}},
            {3, {:failed, key}},
            {3, {:progress, key}},
            {4, {:time, choose(0, 8_000)}},
            {1, {:forget, key}}
          ])
        )

      check(
        type,
        fn commands ->
          plan = Plan.new(2, &div(&1 + 1, 2))

          {plan, wanted, now} =
            Enum.reduce(commands, {plan, MapSet.new(), 0}, fn command, {plan, wanted, now} ->
              {plan, wanted, now} = plan_step(command, plan, wanted, now)
              {plan, started} = Plan.start(plan, now)
              true = map_size(plan.active) <= 2
              true = Enum.all?(started, fn {k, _, _} -> not is_map_key(plan.waiting, k) end)
              true = MapSet.new(Map.keys(plan.active) ++ Map.keys(plan.waiting)) == wanted
              true = MapSet.new(Map.keys(plan.since)) == wanted
              {plan, wanted, now}
            end)

          # In time each is started, two at once.
          finish(plan, wanted, now, 0)
        end,
        numtests: 1000
      )
    end
  end

  defp k(n), do: {"A#{n}", "s", n}

  defp plan_step({:want, n}, plan, wanted, now) do
    {_, plan} = Plan.want(plan, k(n), :forward, now, 200)
    {plan, MapSet.put(wanted, k(n)), now}
  end

  defp plan_step({:done, n}, plan, wanted, now) do
    if is_map_key(plan.active, k(n)), do: done(plan, wanted, now, n), else: {plan, wanted, now}
  end

  defp plan_step({:failed, n}, plan, wanted, now) do
    case plan.active[k(n)] do
      nil -> {Plan.failed(plan, k(n), 1, now), wanted, now}
      {request, _, _} -> {Plan.failed(plan, k(n), request, now), wanted, now}
    end
  end

  defp plan_step({:progress, n}, plan, wanted, now) do
    {request, _, _} = Map.get(plan.active, k(n), {0, 0, 0})
    {Plan.progress(plan, k(n), request, now), wanted, now}
  end

  defp plan_step({:time, by}, plan, wanted, now) do
    {plan, _} = Plan.expire(plan, now + by)
    {plan, wanted, now + by}
  end

  defp plan_step({:forget, n}, plan, wanted, now) do
    {Plan.forget(plan, "s", n), MapSet.delete(wanted, k(n)), now}
  end

  defp done(plan, wanted, now, n) do
    {request, _, _} = plan.active[k(n)]
    # Of another request: ignored.
    ^plan = Plan.done(plan, k(n), request + 1)
    {Plan.done(plan, k(n), request), MapSet.delete(wanted, k(n)), now}
  end

  defp finish(plan, wanted, now, rounds) do
    if Plan.idle?(plan) do
      MapSet.size(wanted) == 0
    else
      if rounds > 20, do: raise("not all were started")
      {plan, _} = Plan.start(plan, now + 40_000)

      {plan, wanted} =
        Enum.reduce(plan.active, {plan, wanted}, fn {key, {request, _, _}}, {plan, wanted} ->
          {Plan.done(plan, key, request), MapSet.delete(wanted, key)}
        end)

      finish(plan, wanted, now + 40_000, rounds + 1)
    end
  end

  test "a failed snapshot is tried later each time, at most half a minute later" do
    plan = Plan.new(1, & &1)
    {:new, plan} = Plan.want(plan, k(1), :back, 0, 0)
    {plan, [{_, request, :back}]} = Plan.start(plan, 0)

    {_, _, delays} =
      Enum.reduce(1..10, {plan, request, []}, fn _, {plan, request, delays} ->
        plan = Plan.failed(plan, k(1), request, 0)
        {at, _, :forward} = plan.waiting[k(1)]
        {^plan, []} = Plan.start(plan, at - 1)
        {plan, [{_, request, _}]} = Plan.start(plan, at)
        {plan, request, delays ++ [at]}
      end)

    assert delays == Enum.sort(delays)
    assert hd(delays) == 250 and List.last(delays) == 30_000
  end

  test "what is wanted is waited for, unless it has failed three times" do
    plan = Plan.new(1, & &1)
    {:new, plan} = Plan.want(plan, k(1), :forward, 10, 0)
    assert Plan.settled?(plan, 9)
    refute Plan.settled?(plan, 10)

    {plan, outcomes} =
      Enum.reduce(1..3, {plan, []}, fn n, {plan, outcomes} ->
        {plan, [{_, request, _}]} = Plan.start(plan, n * 100_000)
        plan = Plan.failed(plan, k(1), request, n * 100_000)
        {plan, outcomes ++ [Plan.settled?(plan, 10)]}
      end)

    assert outcomes == [false, false, true]
    {plan, [{_, request, _}]} = Plan.start(plan, 1_000_000)
    assert Plan.settled?(plan, 10)
    assert Plan.idle?(Plan.done(plan, k(1), request))
  end

  describe "doubts" do
    @key {"A", "s", 1}
    test "a version that is behind has half a second" do
      {d, :wait} = Doubts.compare(Doubts.new(), @key, {1, 1, 5}, {3, 1, 5}, :beat, 0)
      # A later beat of a busy Shield does not begin the time anew.
      {d, :wait} = Doubts.compare(d, @key, {2, 1, 5}, {4, 1, 5}, :beat, 400)
      assert {^d, []} = Doubts.due(d, 499)
      assert {_, [{@key, 3}]} = Doubts.due(d, 500)
      {d, :equal} = Doubts.compare(d, @key, {4, 1, 5}, {4, 1, 5}, :beat, 450)
      assert {_, []} = Doubts.due(d, 500)
    end

    test "a cold Brain waits for nothing" do
      assert {_, :cold} = Doubts.compare(Doubts.new(), @key, {0, 0, 0}, {3, 1, 5}, :cold, 0)
    end

    test "the same version must have the same digest and count" do
      assert {_, :digest} = Doubts.compare(Doubts.new(), @key, {3, 1, 5}, {3, 1, 6}, :beat, 0)
      assert {_, :digest} = Doubts.compare(Doubts.new(), @key, {3, 2, 5}, {3, 1, 5}, :beat, 0)
    end

    test "a version above the one told is in doubt when told twice, with nothing come between" do
      assert {_, :newer} = Doubts.compare(Doubts.new(), @key, {9, 1, 5}, {3, 1, 5}, :beat, 0)
      {d, :newer} = Doubts.compare(Doubts.new(), @key, {9, 1, 5}, {3, 1, 5}, :digests, 0)
      assert {_, :newer} = Doubts.compare(d, @key, {9, 1, 5}, {3, 1, 5}, :digests, 499)
      assert {_, :newer} = Doubts.compare(d, @key, {9, 1, 5}, {4, 1, 5}, :digests, 600)
      assert {_, :newer} = Doubts.compare(d, @key, {10, 1, 5}, {3, 1, 5}, :digests, 600)
      assert {_, :ahead} = Doubts.compare(d, @key, {9, 1, 5}, {3, 1, 5}, :digests, 600)
    end

    test "a tenant is dropped when unlisted twice, untouched" do
      {d, []} = Doubts.unlisted(Doubts.new(), "s", 1, [{"A", 4}, {"B", 1}], 0)
      assert {_, []} = Doubts.unlisted(d, "s", 1, [{"A", 4}], 400)
      assert {_, []} = Doubts.unlisted(d, "s", 1, [{"A", 5}], 1_000)
      assert {_, ["A", "B"]} = Doubts.unlisted(d, "s", 1, [{"A", 4}, {"B", 1}], 1_000)
      # Listed in between.
      {d, ["B"]} = Doubts.unlisted(d, "s", 1, [{"B", 1}], 600)
      assert {_, []} = Doubts.unlisted(d, "s", 1, [{"A", 4}], 1_200)
    end
  end

  test "roots: quiet or five in a row ask, a cold Brain asks at once" do
    assert Roots.judge(true, 0, 4, true) == {:fine, 0}
    assert Roots.judge(false, 500, 0, true) == {:ask, 0}
    assert Roots.judge(false, 499, 0, true) == {:wait, 1}
    assert Roots.judge(false, 0, 4, true) == {:ask, 0}
    assert Roots.judge(false, 0, 0, false) == {:ask, 0}
  end

  test "a batch's cost goes back once, when all parts are done or their owners dead" do
    a = make_ref()
    b = make_ref()
    assert {%{}, 5} = Credit.dealt(%{}, a, 5, [])
    {open, 0} = Credit.dealt(%{}, a, 10, [:liveness, 0, 1])
    {open, 0} = Credit.dealt(open, b, 7, [1])
    {open, 0} = Credit.done(open, a, 0)
    {open, 0} = Credit.done(open, a, 0)
    {open, 7} = Credit.died(open, 1)
    {open, 10} = Credit.done(open, a, :liveness)
    assert {open, 0} == Credit.done(open, a, :liveness)
    assert open == %{}
  end

  test "each event goes to its owner, in order, and a beat to all" do
    a = Enum.find(~w(A B C D E F), &(Dispatch.shard(&1, 2) == 0))
    b = Enum.find(~w(A B C D E F), &(Dispatch.shard(&1, 2) == 1))
    change = fn account, n -> {:changes, account, "s", 1, n, 0, [], Terms.encode([])} end
    beat = {:beat, "s", 1, 5, false, 9, 1, 1, [{a, 1, 1, 1}, {b, 2, 2, 2}]}

    events = [
      {:spine, :brain, :up},
      change.(a, 1),
      change.(b, 1),
      change.(a, 2),
      beat,
      {:dirty, [{b, "s"}]}
    ]

    d = Dispatch.deal(events, 2, %{}, 700)

    assert d.parts[0] == [change.(a, 1), change.(a, 2), {:beat, "s", 1, 5, [{a, 1, 1, 1}]}]
    assert d.parts[1] == [change.(b, 1), {:beat, "s", 1, 5, [{b, 2, 2, 2}]}, {:dirty, [{b, "s"}]}]
    assert d.parts[:liveness] == [{:spine, :brain, :up}, {:beat, "s", 1, 5, false, 9, 0}]
    # The next beat knows how long nothing has come.
    assert %{parts: %{liveness: [{_, _, _, _, _, _, 800}]}} =
             Dispatch.deal([beat], 2, d.heard, 1_500)

    assert Dispatch.deal(:nothing, 2, %{}, 0).malformed == 1
  end

  test "what is no term, and atoms nobody knows, are refused" do
    assert Terms.decode("x") == :error
    assert Terms.decode(<<131, 119, 7, "never_1">>) == :error
    assert Terms.decode(Terms.encode({:ping, 1})) == {:ok, {:ping, 1}}
  end
end
